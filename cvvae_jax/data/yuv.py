"""RGB frames in the colors that video codecs take."""

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace

from cvvae_jax.data.display import Display

_LEFT = {"out_h_chr_pos": "0", "out_v_chr_pos": "128"}  # in 1/256 of a pixel


class YuvConverter:
    """Converts uint8 RGB frames to 8 bits of BT.709 in limited range.

    Where chroma is halved (4:2:0), its samples lie as H.264, VP9 and their players take them: on
    the left one of two columns, and between two rows. Left to itself, swscale computes them between
    the columns too, and colors move by half a pixel.
    """

    def __init__(self, height: int, width: int, pixel_format: str):
        """Set up the conversion of frames of one size to "yuv420p" or "yuv444p"."""
        self._graph = av.filter.Graph()
        source = self._graph.add(
            "buffer", video_size=f"{width}x{height}", pix_fmt="rgb24", time_base="1/1"
        )
        scale = self._graph.add(
            "scale",
            **(_LEFT if pixel_format == "yuv420p" else {}),
            out_color_matrix="bt709",
            out_range="tv",
            flags="bicubic+accurate_rnd+full_chroma_int+full_chroma_inp",
        )
        formats = self._graph.add("format", pix_fmts=pixel_format)
        sink = self._graph.add("buffersink")
        source.link_to(scale)
        scale.link_to(formats)
        formats.link_to(sink)
        self._graph.configure()

    def __call__(self, frame: np.ndarray) -> av.VideoFrame:
        """A frame, uint8 (height, width, 3), converted."""
        picture = av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")
        picture.pts = 0
        self._graph.push(picture)
        return self._graph.pull()


def state_colors(codec: av.VideoCodecContext, display: Display) -> None:
    """Say in the stream what its numbers mean: players guess otherwise, by the frame's size."""
    codec.colorspace, codec.color_range = Colorspace.ITU709, ColorRange.MPEG
    codec.color_primaries, codec.color_trc = display.primaries, display.transfer
