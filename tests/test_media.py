"""Reading media: every source, limits, damage, and the views of a plan."""

from __future__ import annotations

import io
import threading
import zlib
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from omniform.data.document import Media
from omniform.data.media import Limits, MediaError, frames_of, size_of, views_of
from omniform.geometry import Crop, MediaSize, Pad, Plan, Resize, View


def picture(width: int = 7, height: int = 5, mode: str = "RGB", seed: int = 0) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(seed).integers(0, 256, (height, width, bands), dtype=np.uint8)
    return Image.fromarray(values.squeeze(-1) if bands == 1 else values, mode)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def film(count: int, kind: str, **options: object) -> bytes:
    frames = [Image.new("RGB", (6, 4), (40 * i, 255 - 40 * i, 0)) for i in range(count)]
    return encoded(frames[0], kind, save_all=True, append_images=frames[1:], **options)


@pytest.fixture
def server() -> Iterator[str]:
    body = encoded(picture())

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path != "/missing" else 404)
            self.end_headers()
            self.wfile.write(body * (1000 if self.path == "/long" else 1))

        def log_message(self, *args: object) -> None: ...

    http = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.shutdown()
    thread.join()
    http.server_close()


# --- sources -----------------------------------------------------------------------------------------------------


def test_one_picture_from_every_source(tmp_path: Path, server: str) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(encoded(picture()))
    for source in (path, str(path), encoded(picture()), picture(), f"{server}/a.png", [picture()]):
        media = Media("image", source)
        assert size_of(media) == MediaSize(width=7, height=5)
        frames = frames_of(media)
        assert len(frames) == 1
        assert np.array_equal(np.array(frames[0]), np.array(picture()))


def test_size_is_known_without_decoding() -> None:
    whole = encoded(picture(400, 300))
    damaged = Media("image", whole[: len(whole) // 2])
    assert size_of(damaged) == MediaSize(width=400, height=300)
    with pytest.raises(MediaError, match=r"image given in memory cannot be read \(.*\); is the file whole"):
        frames_of(damaged)[0]


@pytest.mark.parametrize("kind", ["GIF", "WEBP"])
def test_frames_of_an_animation(kind: str) -> None:
    media = Media("video", film(3, kind, duration=200, lossless=True))
    assert size_of(media) == MediaSize(width=6, height=4, frames=3, fps=5.0)
    colours = [np.array(frame)[0, 0].astype(int) for frame in frames_of(media)]
    for i, colour in enumerate(colours):
        assert abs(colour - np.array([40 * i, 255 - 40 * i, 0])).max() <= 8
    # frames may be asked for in any order
    assert np.array_equal(np.array(frames_of(media)[-1]), np.array(frames_of(media)[2]))
    assert size_of(Media("image", media.source)) == MediaSize(width=6, height=4)


def test_a_film_from_pictures_and_from_a_folder(tmp_path: Path) -> None:
    frames = [picture(seed=i) for i in range(11)]
    for i, frame in enumerate(frames):
        frame.save(tmp_path / f"{i:05}.png")
    (tmp_path / "notes.txt").write_text("not a frame")
    for source in (frames, tuple(frames), tmp_path):
        media = Media("video", source)
        assert size_of(media) == MediaSize(width=7, height=5, frames=11)
        assert all(np.array_equal(np.array(a), np.array(b)) for a, b in zip(frames_of(media), frames, strict=True))
    assert len(frames_of(Media("video", frames))[2:4]) == 2


def test_palettes_and_transparency_become_rgb_as_pil_converts_them() -> None:
    for mode in ("L", "LA", "P", "RGBA", "CMYK", "1"):
        image = picture().convert(mode)
        assert np.array_equal(np.array(frames_of(Media("image", image))[0]), np.array(image.convert("RGB")))


def test_orientation_marks_are_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    media = Media("image", encoded(picture(), "JPEG", exif=exif))
    assert size_of(media) == MediaSize(width=7, height=5)
    assert frames_of(media)[0].size == (7, 5)


# --- refusals ----------------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_named(tmp_path: Path, server: str) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty").mkdir()
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    picture(7, 5).save(mixed / "0.png")
    picture(8, 5).save(mixed / "1.png")
    for media, message in [
        (Media("image", tmp_path / "no.png"), r"no such file: .*no\.png"),
        (Media("image", tmp_path / "text.png"), r"text\.png is no picture that PIL can read"),
        (Media("image", tmp_path / "empty"), "empty is a folder; give one of its files"),
        (Media("video", tmp_path / "empty"), "empty holds no pictures"),
        (Media("video", mixed), r"frame 1 of .*mixed is 8x5, the first is 7x5"),
        (Media("video", []), "video given in memory has no frames"),
        (Media("video", [picture(7, 5), picture(6, 5)]), "frame 1 of video given in memory is 6x5"),
        (Media("image", b""), "image given in memory is no picture"),
        (Media("image", Image.new("I;16", (3, 3))), "more than 8 bits; save it with 8 bits"),
        (Media("image", f"{server}/missing"), r"cannot fetch http://127.*/missing: .*404"),
        (Media("image", "http://127.0.0.1:9/a.png"), "cannot fetch http://127.0.0.1:9/a.png"),
    ]:
        with pytest.raises(MediaError, match=message):
            list(frames_of(media))


def test_limits_hold_for_every_source(tmp_path: Path, server: str) -> None:
    path = tmp_path / "a.png"
    picture(40, 30).save(path)
    few = Limits(bytes=200)
    for source in (path, path.read_bytes(), f"{server}/long"):
        with pytest.raises(MediaError, match=r"(at most|longer than) 200 bytes|at most 200 are read"):
            size_of(Media("image", source), few)
    for source in (path, path.read_bytes(), picture(40, 30), [picture(40, 30)]):
        with pytest.raises(MediaError, match="40x30 pixels, at most 1199 are read"):
            size_of(Media("image", source), Limits(pixels=1199))
    for source in (film(3, "GIF"), [picture()] * 3):
        with pytest.raises(MediaError, match="3 frames, at most 2 are read"):
            size_of(Media("video", source), Limits(frames=2))
    with pytest.raises(MediaError, match=r"not read within 0 seconds|cannot fetch"):
        size_of(Media("image", f"{server}/slow"), Limits(seconds=0.0))


def test_a_huge_header_is_refused_before_its_pixels_are_made() -> None:
    small = encoded(picture())
    chunk = small[12:16] + (30_000).to_bytes(4, "big") * 2 + small[24:29]
    header = small[:12] + chunk + zlib.crc32(chunk).to_bytes(4, "big") + small[33:]
    with pytest.raises(MediaError, match="too many pixels"):
        size_of(Media("image", header))


def test_indices_beyond_the_frames_are_refused() -> None:
    with pytest.raises(IndexError, match="frame 1 of image given in memory, which has 1"):
        frames_of(Media("image", picture()))[1]


# --- views -------------------------------------------------------------------------------------------------------


def test_steps_are_pils() -> None:
    image, fill = picture(30, 20), (9, 8, 7)
    steps = (Resize((12, 18)), Pad((20, 20), (4, 1), fill), Crop((2, 3), (10, 12)))
    for name, filter_ in (("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)):
        canvas = Image.new("RGB", (20, 20), fill)
        canvas.paste(image.resize((18, 12), filter_), (1, 4))
        wanted = torch.from_numpy(np.array(canvas.crop((3, 2, 15, 12)))).permute(2, 0, 1)
        plan = Plan(views=(View(steps),), size=(10, 12), blocks=())
        got = views_of([image], plan, name)
        assert got.dtype == torch.uint8 and got.is_contiguous()
        assert torch.equal(got, wanted[None])


def test_steps_that_views_share_run_once(monkeypatch: pytest.MonkeyPatch) -> None:
    resized: list[tuple[int, int]] = []
    resize = Image.Image.resize

    def counted(self: Image.Image, size: tuple[int, int], *args: object) -> Image.Image:
        resized.append(size)
        return resize(self, size, *args)

    monkeypatch.setattr(Image.Image, "resize", counted)
    whole = Resize((8, 8))
    tiles = tuple(View((whole, Crop((r, c), (4, 4)))) for r in (0, 4) for c in (0, 4))
    plan = Plan(views=(View((Resize((4, 4)),)), *tiles), size=(4, 4), blocks=())
    views = views_of([picture(30, 20)], plan, "bicubic")
    assert resized == [(4, 4), (8, 8)]
    assert torch.equal(views[1:].view(2, 2, 3, 4, 4).permute(2, 0, 3, 1, 4).reshape(3, 8, 8), _whole(whole))


def _whole(step: Resize) -> torch.Tensor:
    return views_of([picture(30, 20)], Plan(views=(View((step,)),), size=step.size, blocks=()), "bicubic")[0]


def test_each_view_takes_its_own_frame() -> None:
    frames = [picture(4, 4, seed=i) for i in range(3)]
    plan = Plan(views=(View((), 2), View((), 0), View((), 2)), size=(4, 4), blocks=())
    got = views_of(frames, plan, "bicubic")
    for view, frame in zip(got, (2, 0, 2), strict=True):
        assert np.array_equal(view.permute(1, 2, 0).numpy(), np.array(frames[frame]))


def test_a_view_of_another_size_than_planned_is_refused() -> None:
    with pytest.raises(ValueError, match=r"view 0 is 5x7 after \(\), planned \(4, 4\)"):
        views_of([picture()], Plan(views=(View(),), size=(4, 4), blocks=()), "bicubic")
