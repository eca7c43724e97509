"""Repositories are fetched through the real hub client, from a hub that runs here."""

import hashlib
import json
import threading
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlparse

import huggingface_hub.constants as constants
import pytest
import releases
from releases import publish, same, tiny, write_bin, write_json

from omniform.weights.hub import folder_of
from omniform.weights.layout import CheckpointError
from omniform.weights.load import load_release

COMMIT = "c" * 40


class Hub(BaseHTTPRequestHandler):
    """What the client asks of the hub: a repository's description, its list of files, and files."""

    repositories = {}  # noqa: RUF012 - filled for each server
    asked = []  # noqa: RUF012

    def do_HEAD(self):
        self.answer(body=False)

    def do_GET(self):
        self.answer(body=True)

    def answer(self, body):
        parts = unquote(urlparse(self.path).path).strip("/").split("/")
        name = "/".join(parts[2:4] if parts[0] == "api" else parts[:2])
        folder = self.repositories.get(name)
        if folder is None:
            self.send(404, b'{"error": "Repository not found"}', {"X-Error-Code": "RepoNotFound"}, body)
        elif parts[0] == "api":
            names = [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*")) if p.is_file()]
            listing = [{"type": "file", "path": n, "size": (folder / n).stat().st_size, "oid": "0"} for n in names]
            info = {"id": name, "sha": COMMIT, "siblings": [{"rfilename": n} for n in names]}
            self.send(200, json.dumps(listing if "tree" in parts else info).encode(), {}, body)
        else:
            file = "/".join(parts[4:])
            self.asked.append(file)
            content = (folder / file).read_bytes()
            etag = hashlib.sha256(content).hexdigest()
            self.send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}, body)

    def send(self, code, content, headers, body):
        self.send_response(code)
        for key, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(tmp_path, monkeypatch):
    handler = type("Handler", (Hub,), {"repositories": {}, "asked": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    here = f"http://127.0.0.1:{server.server_port}"
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.replace(constants.ENDPOINT, here)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "ENDPOINT", here)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    yield handler
    server.shutdown()
    server.server_close()


def fetched(hub, pattern):
    return sorted({name for name in hub.asked if fnmatch(name, pattern)})


def test_a_release_and_its_tower(hub, tmp_path):
    model = tiny()
    folder = publish(tmp_path / "r", model, shards=2)
    (folder / "clip").rename(tmp_path / "clip")
    write_json(folder / "config.json", releases.config(model, mm_vision_tower="openai/clip"))
    (folder / "README.md").write_text("not needed")
    (folder / "tf_model.h5").write_bytes(b"not needed")
    hub.repositories |= {"me/model": folder, "openai/clip": tmp_path / "clip"}
    assert same(load_release("llava-1.5", "me/model"), model)
    assert len(fetched(hub, "model-*.safetensors")) == 2 and "model.safetensors" in hub.asked
    assert not fetched(hub, "*.md") and not fetched(hub, "*.h5")
    hub.asked.clear()
    assert folder_of("me/model").is_relative_to(tmp_path / "cache")
    assert hub.asked == []  # everything is here already


def test_bin_files_only_where_there_is_nothing_better(hub, tmp_path):
    model = tiny()
    hub.repositories["me/model"] = publish(tmp_path / "r", model, write_bin)
    (tmp_path / "r" / "clip").rename(tmp_path / "clip")
    write_json(tmp_path / "r" / "config.json", releases.config(model, mm_vision_tower=str(tmp_path / "clip")))
    assert same(load_release("llava-1.5", "me/model"), model)
    assert fetched(hub, "*.bin") == ["pytorch_model.bin"]


def test_what_cannot_be_fetched_is_told(hub, monkeypatch):
    with pytest.raises(CheckpointError, match=r"no folder me/none, and the hub repository of that name could not be"):
        folder_of("me/none")
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"no folder me/model, and the hub repository of that name could not be"):
        folder_of("me/model")
