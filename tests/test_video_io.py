"""Videos and cameras: what is read, what is written, who is followed, what is interrupted."""

import struct
import threading
import time

import av
import cv2
import numpy as np
import pytest

from inference.video_io import CameraReader, VideoReader, write_video
from tests.harness import write_film
from utils.files import UserError

CODECS = {
    "libx264": "mp4",
    "libx265": "mp4",
    "libvpx-vp9": "webm",
    "libsvtav1": "mp4",
    "mjpeg": "avi",
}


def grey_frames(count, height=48, width=64, step=20):
    """Frames that become lighter, with a white upper left quarter."""
    frames = [np.full((height, width, 3), step * n % 200, np.uint8) for n in range(count)]
    for frame in frames:
        frame[: height // 2, : width // 2] = 255
    return frames


def level(frame):
    """The grey level of the lower right quarter."""
    return float(frame[len(frame) // 2 + 4 :, frame.shape[1] // 2 + 4 :].mean())


@pytest.mark.parametrize(("codec", "ending"), CODECS.items())
def test_films_of_every_codec_are_read_and_written_again(tmp_path, codec, ending):
    film = write_film(tmp_path / f"film.{ending}", grey_frames(10, 130, 164), codec=codec)
    again = copy_film(film, tmp_path / "again.mp4")
    for path in (film, again):
        read = list(VideoReader(path))
        assert [number for number, _, _ in read] == list(range(10))
        assert [seconds for _, seconds, _ in read] == pytest.approx(np.arange(10) / 20, abs=2e-3)
        assert all(abs(level(frame) - 20 * number) < 5 for number, _, frame in read)
        assert read[0][2].shape == (130, 164, 3)
        assert VideoReader(path).duration == pytest.approx(0.5, abs=0.06)
    with av.open(str(again)) as container:
        context = container.streams.video[0].codec_context
        assert (context.name, context.pix_fmt) == ("h264", "yuv420p")


@pytest.mark.parametrize(
    ("sound", "ending", "written"),
    [
        ("aac", "mp4", "aac"),
        ("libopus", "mkv", "aac"),
        ("pcm_s16le", "avi", "aac"),
        (None, "mp4", None),
    ],
)
def test_a_written_video_has_the_sound_of_the_original(tmp_path, sound, ending, written):
    codec = "mjpeg" if ending == "avi" else "libx264"
    film = write_film(tmp_path / f"film.{ending}", grey_frames(60), codec=codec, sound=sound)
    copy_film(film, tmp_path / "again.mp4")
    with av.open(str(tmp_path / "again.mp4")) as container:
        streams = container.streams.audio
        assert [stream.codec_context.name for stream in streams] == [written] * bool(written)
        if written:
            frames = [frame.to_ndarray() for frame in container.decode(streams[0])]
            tone, rate = np.concatenate(frames, axis=1)[0], streams[0].rate
            strongest = np.abs(np.fft.rfft(tone)).argmax() * rate / len(tone)
            assert strongest == pytest.approx(440, abs=2)
            assert len(tone) / rate == pytest.approx(2.95, abs=0.1)


def copy_film(film, path):
    """Read a film and write it again."""
    with write_video(path, film) as writer:
        for _, seconds, frame in VideoReader(film):
            writer.add(frame, seconds)
    return path


def test_sound_and_frames_are_interleaved(tmp_path):
    """A player that reads from the start needs no more than a second of either."""
    film = write_film(tmp_path / "film.mp4", grey_frames(120), sound="aac")
    copy_film(film, tmp_path / "again.mp4")
    times = {"video": 0.0, "audio": 0.0}
    with av.open(str(tmp_path / "again.mp4")) as container:
        packets = [packet for packet in container.demux() if packet.dts is not None]
        for packet in sorted(packets, key=lambda packet: packet.pos):
            times[packet.stream.type] = float(packet.dts * packet.time_base)
            assert abs(times["video"] - times["audio"]) < 1.5


@pytest.mark.parametrize("jump", [0.37, 600.0])
def test_times_are_those_of_the_file_and_a_jump_writes_no_copies(tmp_path, jump):
    times = [0.0, 0.04, 0.12, 0.13, 0.13 + jump, 0.17 + jump]
    film = write_film(tmp_path / "film.mp4", grey_frames(6), times=times)
    copy_film(film, tmp_path / "again.mp4")
    for path in (film, tmp_path / "again.mp4"):
        read = list(VideoReader(path))
        assert [seconds for _, seconds, _ in read] == pytest.approx(times, abs=2e-3)
        assert [round(level(frame) / 20) for _, _, frame in read] == list(range(6))


@pytest.mark.parametrize(
    ("matrix", "corner", "shape"),
    [
        ((1, 0, 0, 1), (0, 0), (48, 64)),
        ((0, 1, -1, 0), (0, 1), (64, 48)),
        ((-1, 0, 0, -1), (1, 1), (48, 64)),
        ((0, -1, 1, 0), (1, 0), (64, 48)),
    ],
)
def test_a_film_is_turned_as_its_file_says(tmp_path, matrix, corner, shape):
    """x' = a x + c y, y' = b x + d y (QuickTime File Format, "Matrices"); one corner is white."""
    film = write_film(tmp_path / "film.mp4", grey_frames(3))
    data = bytearray(film.read_bytes())
    a, b, c, d = (65536 * value for value in matrix)
    start = data.index(b"tkhd") + 4 + 40  # behind version, times, volume of version 0
    data[start : start + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    film.write_bytes(data)
    frame = next(iter(VideoReader(film)))[2]
    assert frame.shape[:2] == shape
    quarters = frame.reshape(2, shape[0] // 2, 2, shape[1] // 2, 3).mean(axis=(1, 3, 4))
    assert np.unravel_index(quarters.argmax(), (2, 2)) == corner


@pytest.mark.parametrize(("codec", "ending"), [("libx264", "mkv"), ("mjpeg", "avi")])
def test_of_a_film_that_was_cut_off_the_rest_is_read(tmp_path, codec, ending):
    noise = np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), dtype=np.uint8)
    film = write_film(tmp_path / f"film.{ending}", list(noise), rate=10, codec=codec)
    film.write_bytes(film.read_bytes()[: film.stat().st_size // 3])
    reader = VideoReader(film)
    count = len(list(reader))
    assert 8 < count < 30 and reader.end == pytest.approx(count / 10, abs=0.3)
    assert reader.duration == pytest.approx(6, abs=0.2)


def test_a_name_that_looks_like_an_address_is_that_of_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    film = write_film(tmp_path / "a.mp4", grey_frames(5)).rename("Interview: Anna.mp4")
    assert len(list(VideoReader(copy_film(film, "Interview: Bob.mp4")))) == 5


@pytest.mark.parametrize("content", [None, b"", b"no video", b"RIFF"])
def test_what_is_no_video_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "film.avi").write_bytes(content)
    with pytest.raises(UserError, match=r"film\.avi"):
        VideoReader(tmp_path / "film.avi")


def test_an_interrupted_video_is_not_left_half_written(tmp_path):
    source = write_film(tmp_path / "film.mp4", grey_frames(2))
    with pytest.raises(KeyboardInterrupt), write_video(tmp_path / "new.mp4", source) as writer:
        writer.add(np.zeros((48, 64, 3), np.uint8), 0.0)
        raise KeyboardInterrupt
    assert [path.name for path in tmp_path.iterdir()] == ["film.mp4"]


class Capture:
    """A `cv2.VideoCapture` whose frames come every 10 ms; `stall` waits in the second."""

    def __init__(self, count, stall=None):
        self.count, self.stall, self.place = count, stall, -1
        self.is_reading, self.released_while_reading = False, None

    def isOpened(self):
        return self.count > 0

    def read(self):
        self.is_reading = True
        time.sleep(0.01)
        self.place += 1
        if self.stall and self.place == 1:
            self.stall.wait(10)
        self.is_reading = False
        good = self.place < self.count
        return good, np.full((4, 6, 3), self.place, np.uint8) if good else None

    def release(self):
        self.released_while_reading = self.is_reading


def test_a_camera_gives_its_newest_frame(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: Capture(60))
    camera, seen = CameraReader("rtsp://camera.example/stream"), []
    for frame in camera:
        seen.append(int(frame[0, 0, 0]))
        time.sleep(0.1)
    camera.close()
    assert seen == sorted(set(seen)) and seen[-1] > 50 and 4 <= len(seen) <= 12


def test_a_camera_that_stalls_is_not_released_while_it_is_read(monkeypatch):
    stall = threading.Event()
    capture = Capture(60, stall)
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: capture)
    monkeypatch.setattr(threading.Thread, "join", lambda self, timeout=None: None)  # no patience
    camera = CameraReader(0)
    next(iter(camera))
    while not capture.is_reading:
        time.sleep(0.001)
    camera.close()
    assert capture.released_while_reading is None
    stall.set()
    for _ in range(500):
        if capture.released_while_reading is None:
            time.sleep(0.01)
    assert capture.released_while_reading is False


@pytest.mark.parametrize("source", [7, "http://127.0.0.1:9/x"])
def test_a_camera_that_is_none_is_refused(monkeypatch, source):
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: Capture(0))
    with pytest.raises(UserError, match=str(source)):
        CameraReader(source)
