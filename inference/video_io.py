"""Read and write videos, read cameras."""

import math
import queue
import threading
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np

from utils.files import as_user_error, atomic_write, one_line
from utils.images import AGAIN, Unreadable, check_file

TIME_BASE = Fraction(1, 90_000)  # seconds; unit of the time stamps of a written video
FALLBACK_RATE = 25  # frames per second, where a file does not say
COPIED_SOUND = ("aac", "mp3")  # what every player reads in MP4; other sound is encoded as AAC


class VideoReader:
    """The frames of a video file: iterating yields (number, seconds, uint8 (H, W, 3) RGB).

    Frames are upright, and times are those of the file. rate: frames per second; duration: seconds
    as the file states, 0 where it does not; end: when the last frame that was read ends. Raises
    Unreadable when the file is missing or no video.
    """

    def __init__(self, path):
        self.path, self.end = Path(path), 0.0
        check_file(self.path, "a video")
        with self._open() as (container, stream):
            self.rate = float(stream.average_rate or FALLBACK_RATE)
            stated = [stream.frames / self.rate, (container.duration or 0) / av.time_base]
            if stream.duration:
                stated[1] = float(stream.duration * stream.time_base)
            self.duration = max(stated)

    @contextmanager
    def _open(self):
        try:
            # Opened by Python: FFmpeg takes "Interview: Anna.mp4" for an address.
            with open(self.path, "rb") as file, av.open(file) as container:
                yield container, container.streams.video[0]
        except (av.error.FFmpegError, IndexError) as error:
            reason = one_line(error)
            raise Unreadable(
                f"{self.path} cannot be read as a video ({reason}): {AGAIN}."
            ) from error

    def __iter__(self):
        number, last = 0, -math.inf
        with self._open() as (container, stream):
            stream.thread_type = "AUTO"
            for frame in _decode(container, stream):
                seconds = frame.time
                if seconds is None or seconds <= last:  # the file does not say
                    seconds = self.end
                length = frame.duration * frame.time_base if frame.duration else 1 / self.rate
                last, self.end = seconds, seconds + float(length)
                image = frame.to_ndarray(format="rgb24")
                yield number, seconds, np.ascontiguousarray(np.rot90(image, frame.rotation // 90))
                number += 1
        if number == 0:
            raise Unreadable(f"{self.path} has no frames that can be read: {AGAIN}.")


def _decode(container, stream):
    """Yield the frames of a stream; damaged packets are skipped, and a file may break off."""
    with suppress(av.error.InvalidDataError):
        for packet in container.demux(stream):
            with suppress(av.error.InvalidDataError):
                yield from packet.decode()


class VideoWriter:
    """An H.264 video in MP4 with the sound of another video, for `write_video`.

    is_empty: whether it has no frame yet.
    """

    def __init__(self, container, source):
        self._container, self._stream, self.is_empty = container, None, True
        self._sound = _sound_packets(source, container)

    def add(self, image, seconds):
        """Add a frame, uint8 (H, W, 3) RGB, at its time; times increase."""
        if self._stream is None:
            self._start(*image.shape[:2])
        frame = av.VideoFrame.from_ndarray(image, format="rgb24")
        frame = frame.reformat(self._stream.width, self._stream.height, "yuv420p")
        frame.pts, frame.time_base = round(seconds / TIME_BASE), TIME_BASE
        self._mux_sound(seconds)
        self._container.mux(self._stream.encode(frame))
        self.is_empty = False

    def _start(self, height, width):
        self._stream = self._container.add_stream("libx264", options={"preset": "veryfast"})
        self._stream.width, self._stream.height = max(2, width // 2 * 2), max(2, height // 2 * 2)
        self._stream.pix_fmt = "yuv420p"  # which browsers and PowerPoint play
        self._stream.codec_context.time_base = TIME_BASE
        self._packet = next(self._sound, None)  # adds its stream before anything is written

    def _mux_sound(self, until):
        while self._packet is not None and self._packet.dts * self._packet.time_base <= until:
            self._container.mux(self._packet)
            self._packet = next(self._sound, None)

    def finish(self):
        """Write what waits in the encoder, and the rest of the sound."""
        if self._stream is not None:
            self._container.mux(self._stream.encode())
            self._mux_sound(math.inf)


def _sound_packets(source, output):
    """Yield the packets of the sound of a video for the container `output`, if it has any.

    Damaged sound ends early.
    """
    with (
        suppress(av.error.FFmpegError),
        open(source, "rb") as file,
        av.open(file) as container,
    ):
        for stream in container.streams.audio[:1]:
            if stream.codec_context.name in COPIED_SOUND:
                copy = output.add_stream_from_template(stream)
                for packet in container.demux(stream):
                    if packet.dts is not None:
                        packet.stream = copy
                        yield packet
                return
            layout = "stereo" if stream.channels > 1 else "mono"
            encoder = output.add_stream("aac", rate=48_000, layout=layout)
            for frame in _decode(container, stream):
                yield from encoder.encode(frame)
            yield from encoder.encode()


@contextmanager
def write_video(path, source, metadata=None):
    """The `VideoWriter` of the file that appears at `path` (.mp4) when the block ends well.

    source: the video whose sound it gets; metadata: {name: text} of the file. Raises UserError.
    """
    remedy = "make room, or choose another folder with --out"
    with (
        as_user_error(path, remedy),
        atomic_write(path) as temporary,
        open(temporary, "wb") as file,
    ):
        with av.open(file, "w", format="mp4") as container:
            container.metadata.update(metadata or {})
            writer = VideoWriter(container, source)
            yield writer
            writer.finish()


class CameraReader:
    """The frames of a camera: iterating yields whichever is newest, uint8 (H, W, 3) RGB.

    source: the number of a camera, or its address. A thread reads all frames, so that none waits in
    a queue; it alone touches the camera, which may take long to answer. Raises Unreadable.
    """

    def __init__(self, source):
        self._capture = cv2.VideoCapture(source)
        if not self._capture.isOpened():
            raise Unreadable(
                f"Camera {source} cannot be opened: connect it, close other programs that use it, "
                "or name another."
            )
        self._newest, self._is_open = queue.Queue(1), True
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        good = True
        while good and self._is_open:
            good, frame = self._capture.read()
            with suppress(queue.Empty):
                self._newest.get_nowait()
            self._newest.put(frame if good else None)
        self._capture.release()

    def __iter__(self):
        while (frame := self._newest.get()) is not None:
            yield cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)

    def close(self):
        """Stop reading; the camera is released when it has answered."""
        self._is_open = False
        self._thread.join(timeout=5)
