"""What encoders of sound share: views are waveforms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from omniform.geometry import Grid, Hw, MediaSize, SpecError
from omniform.parts import Encoder, Sight


@dataclass(frozen=True, kw_only=True)
class AudioEncoder(Encoder):
    """Sound -> continuous features. A view is a waveform of one channel, (1, samples), with full scale at 1.

    Attributes:
        rate: samples a second that it hears.
    """

    abstract: ClassVar[bool] = True
    modality = "audio"
    stored = "float32"
    channels = ()

    rate: int = 16000

    @property
    def window(self) -> int:
        """Most samples of one view."""
        raise NotImplementedError

    @property
    def size(self) -> Hw:
        return 1, self.window

    @property
    def usual(self) -> MediaSize:
        return MediaSize(samples=self.window, rate=self.rate)

    def sight(self, cells: Callable[[Hw], Grid]) -> Sight:
        return Sight(size=self.size, mean_rgb=self.mean_rgb, cells=cells, rate=self.rate)

    def heard(self, size: Hw, least: int = 1) -> int:
        """Samples of one view.

        Raises:
            SpecError: it is no waveform of `least` to `window` samples.
        """
        if size[0] != 1 or not least <= size[1] <= self.window:
            raise SpecError(
                f"{type(self).__name__} hears views of 1 x {least} to {self.window} samples, not {size[0]} x "
                f"{size[1]}; use views 'Windows', which add silence to what is shorter than `least`"
            )
        return size[1]
