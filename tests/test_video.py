"""Videos and cameras: times of the file, people who cross, cuts, what is written, what is interrupted."""

import math
import os
import sys
import time

import cv2
import numpy as np
import pytest

import visualize
from data.demo.drawing import draw_face
from inference.figures import draw_timelines
from inference.videos.recognizer import Face
from inference.videos import summary, video
from inference.videos.video import Moment, Newest, Person, Watcher, read_frames, watch
from tests.test_recognizer import face_of
from tests.test_visualize import read_table, run
from utils.files import UserError
from utils.images import Unreadable, is_video
from utils.tasks import EMOTIONS

SIDE = 130


def scene(places, level):
    """A frame of 640x480, uint8 RGB: {seed of a drawn face: its left top corner}, those behind first."""
    grey = np.full((480, 640), level, np.uint8)
    for seed, (left, top) in places.items():
        grey[top : top + SIDE, left : left + SIDE] = draw_face(6, (0, 0, 0), seed, SIDE)
    return np.repeat(grey[:, :, None], 3, axis=2)


def crossing():
    """([frame], [{seed: middle}], [seconds]): two faces cross, one before the other; a cut to two others.

    The frame rate is not constant.
    """
    frames, truth = [], []
    for step in range(40):
        places = {4: (470 - 11 * step, 190), 3: (40 + 11 * step, 200)}
        frames.append((places, 150))
    for step in range(20):
        frames.append(({6: (40 + 3 * step, 200), 9: (470 - 3 * step, 190)}, 60))
    truth = [{seed: (left + SIDE / 2, top + SIDE / 2) for seed, (left, top) in places.items()} for places, _ in frames]
    gaps = np.where(np.arange(len(frames)) % 7 < 3, 0.08, 0.04)
    return [scene(*frame) for frame in frames], truth, [0.0, *np.cumsum(gaps)[:-1].tolist()]


def test_two_who_cross_keep_their_numbers_and_after_a_cut_all_are_new(recognizer):
    frames, truth, times = crossing()
    seen = {}
    for moment in watch(Watcher(recognizer), zip(range(len(frames)), times, frames, strict=True)):
        for seed, (x, y) in truth[moment.number].items():
            visible = moment.number >= 40 or seed == 3 or abs(truth[moment.number][3][0] - x) > SIDE
            near = [person.number for person in moment.people if math.dist(person.face.box.middle, (x, y)) < SIDE / 2]
            if visible and near:
                assert len(near) == 1
                seen.setdefault(seed, []).append(near[0])
    assert {seed: set(numbers) for seed, numbers in seen.items()}.keys() == {3, 4, 6, 9}
    assert all(len(set(numbers)) == 1 for numbers in seen.values()), seen
    assert len({numbers[0] for numbers in seen.values()}) == 4
    assert len(seen[3]) >= 36 and len(seen[4]) >= 20 and len(seen[6]) >= 18 and len(seen[9]) >= 18


def test_every_other_frame_is_looked_at_when_asked(recognizer):
    frames, _, times = crossing()
    moments = list(watch(Watcher(recognizer), zip(range(10), times, frames, strict=False), every=3))
    assert [moment.number for moment in moments] == list(range(10))
    assert [moment.people is not None for moment in moments] == [number % 3 == 0 for number in range(10)]
    assert moments[3].to_dict()["people"][0]["smooth emotion"] in EMOTIONS


class Capture:
    """A `cv2.VideoCapture` of frames at these times in milliseconds; a camera whose frames come every 10 ms."""

    def __init__(self, milliseconds, rate=25.0, camera=False):
        self.milliseconds, self.rate, self.camera, self.place = milliseconds, rate, camera, -1

    def isOpened(self):
        return True

    def read(self):
        if self.camera:
            time.sleep(0.01)
        self.place += 1
        good = self.place < len(self.milliseconds)
        return good, np.full((4, 6, 3), min(self.place, 255), np.uint8) if good else None

    def get(self, what):
        return {cv2.CAP_PROP_POS_MSEC: self.milliseconds[min(self.place, len(self.milliseconds) - 1)],
                cv2.CAP_PROP_FPS: self.rate, cv2.CAP_PROP_FRAME_COUNT: -1.0}[what]  # fmt: skip

    def release(self):
        pass


@pytest.mark.parametrize(
    ("milliseconds", "seconds"),
    [
        ([0, 40, 120, 130, 400], [0, 0.04, 0.12, 0.13, 0.4]),  # a variable rate
        ([0, 0, 0, 0], [0, 0.04, 0.08, 0.12]),  # a file that does not say
        ([500, 540, 30, 620], [0.5, 0.54, 0.58, 0.62]),
        ([math.nan, 40], [0, 0.04]),
    ],
)
def test_times_are_those_of_the_file(tmp_path, monkeypatch, milliseconds, seconds):
    (tmp_path / "film.mp4").write_bytes(b"frames")
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: Capture(milliseconds))
    assert [one for _, one, _ in read_frames(tmp_path / "film.mp4")] == pytest.approx(seconds)
    assert video.count_frames(tmp_path / "film.mp4") == (0, 25.0)


def written(path, frames, rate, codec="MJPG"):
    """A video of frames, uint8 (H, W, 3), at the path, or a skip."""
    size = frames[0].shape[1::-1]
    writer = cv2.VideoWriter(os.path.abspath(path), cv2.VideoWriter_fourcc(*codec), rate, size)
    if not writer.isOpened():
        pytest.skip("this OpenCV writes no videos")
    for frame in frames:
        writer.write(frame)
    writer.release()
    return path


def plain(count):
    """[frame] that become lighter."""
    return [np.full((48, 64, 3), 20 * level, np.uint8) for level in range(count)]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "film.avi does not exist: give the path of a video"),
        (b"", "film.avi is empty: get it again, or leave it out"),
        (b"no video", "film.avi cannot be opened as a video: get it again, or leave it out"),
    ],
)
def test_a_video_that_is_missing_empty_or_none_is_told(tmp_path, content, told):
    if content is not None:
        (tmp_path / "film.avi").write_bytes(content)
    for read in (video.count_frames, lambda path: next(read_frames(path))):
        with pytest.raises(Unreadable, match=told):
            read(tmp_path / "film.avi")


def test_a_name_that_looks_like_an_address_is_that_of_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    written("a.mp4", plain(5), 8, "mp4v")
    os.rename("a.mp4", "Interview: Anna.mp4")
    assert video.count_frames("Interview: Anna.mp4") == (5, 8.0) and len(list(read_frames("Interview: Anna.mp4"))) == 5
    with video.video_writer("Interview: Bob.mp4", 8.0) as recording:
        recording.add(plain(1)[0], 0.0)
    assert video.count_frames("Interview: Bob.mp4")[0] == 1


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every name of a file is text")
def test_names_that_are_no_text_are_told_before_opencv_sees_them(tmp_path, monkeypatch, checkpoints, capsys):
    folder, seen = tmp_path / os.fsdecode(b"caf\xe9"), []
    for name in ("VideoCapture", "VideoWriter"):  # which crash
        monkeypatch.setattr(cv2, name, lambda *arguments: seen.append(arguments))
    folder.mkdir()
    (folder / "film.avi").write_bytes(b"frames")
    for read in (video.count_frames, lambda path: next(read_frames(path))):
        with pytest.raises(Unreadable, match=r"film\.avi cannot be opened, .* not text in UTF-8: rename"):
            read(folder / "film.avi")
    with pytest.raises(Unreadable, match="not text in UTF-8"), video.video_writer(folder / "new.mp4", 8.0) as recording:
        recording.add(plain(1)[0], 0.0)
    assert os.listdir(folder) == ["film.avi"] and not seen
    assert run(checkpoints, folder / "film.avi") == 1
    assert "rename the file" in capsys.readouterr().err


def test_times_of_a_real_file_are_those_of_its_frames(tmp_path):
    path = written(tmp_path / "film.avi", plain(12), 8)
    read = list(read_frames(path))
    assert [number for number, _, _ in read] == list(range(12))
    assert [seconds for _, seconds, _ in read] == pytest.approx([number / 8 for number in range(12)], abs=1e-3)
    assert all(abs(int(frame.mean()) - 20 * number) <= 3 for number, _, frame in read)


def test_an_annotated_video_keeps_the_times(tmp_path):
    """Frames of a variable rate are written as often as a constant one needs."""
    path = tmp_path / "a.mp4"
    with video.video_writer(path, 10.0) as recording:
        for level, seconds in ((10, 3.0), (60, 3.1), (110, 3.5), (160, 3.52), (210, 3.6)):
            recording.add(np.full((48, 64, 3), level, np.uint8), seconds)
    levels = [round(float(frame.mean()) / 10) * 10 for _, _, frame in read_frames(path)]
    assert levels == [10, 60, 110, 110, 110, 110, 210]
    assert recording.codec in ("H.264", "MPEG-4") and recording.codec in visualize.SPOKEN


def test_a_camera_gives_its_newest_frame(monkeypatch):
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: Capture([0] * 60, camera=True))
    camera, seen = Newest("rtsp://camera.example/stream"), []
    for frame in camera:
        seen.append(int(frame[0, 0, 0]))
        time.sleep(0.1)
    camera.close()
    assert seen == sorted(set(seen)) and seen[-1] == 59 and 4 <= len(seen) <= 12


@pytest.mark.parametrize(
    ("source", "told"), [(7, "Camera 7 cannot be opened"), ("http://127.0.0.1:9/x", "The camera http://127.0.0.1:9/x")]
)
def test_a_camera_that_is_none_is_told(monkeypatch, source, told):
    monkeypatch.setattr(Capture, "isOpened", lambda self: False)
    monkeypatch.setattr(cv2, "VideoCapture", lambda source: Capture([]))
    with pytest.raises(Unreadable, match=told):
        Newest(source)


@pytest.mark.parametrize(
    ("text", "expected"), [([], 0), (["2"], 2), (["rtsp://cam/1"], "rtsp://cam/1"), (["http://cam"], "http://cam")]
)
def test_cameras_have_numbers_or_addresses(text, expected):
    assert visualize.build_parser().parse_args(["--webcam", *text]).webcam == expected


@pytest.mark.parametrize("name", ["a.FLV", "a.3gp", "a.mts", "a.ts", "a.ogv", "a.m2ts", "a.mp4"])
def test_kinds_of_video(tmp_path, name):
    assert is_video(tmp_path / name)


@pytest.fixture
def film(tmp_path):
    return written(tmp_path / "film.avi", crossing()[0][:12], 20)


def test_a_video_without_pictures_gives_tables_of_moments_and_people(film, tmp_path, checkpoints, capsys):
    out = tmp_path / "out"
    assert run(checkpoints, film, "--out", out, "--no-pictures", "--every", "2", "--smooth", "0.2") == 0
    assert sorted(path.name for path in out.iterdir()) == ["film_emotion.csv", "film_emotion_people.csv"]
    rows, people = read_table(out / "film_emotion.csv"), read_table(out / "film_emotion_people.csv")
    assert {int(row["frame"]) % 2 for row in rows} == {0} and [row["face"] for row in people] == ["1", "2"]
    for person in people:
        mine = [row for row in rows if row["face"] == person["face"]]
        assert int(person["frames"]) == len(mine) >= 5
        assert float(person["mean Valence"]) == pytest.approx(
            np.mean([float(row["Valence"]) for row in mine]), abs=2e-4
        )
        for emotion in EMOTIONS:
            share = np.mean([row["smooth emotion"] == emotion for row in mine])
            assert float(person[f"share {emotion}"]) == pytest.approx(share, abs=1e-4)
        decay = math.exp(-0.1 / 0.2)
        expected = float(mine[0]["Happy"])
        for row in mine[1:]:
            expected = decay * expected + (1 - decay) * float(row["Happy"])
            assert float(row["smooth Happy"]) == pytest.approx(expected, abs=2e-4)
    assert "face 1: " in capsys.readouterr().out


def test_what_a_video_lacks_is_said(film, checkpoints, capsys):
    assert run(checkpoints, film) == 0
    said = capsys.readouterr().out
    assert "sound" in said and ("H.264" in said)


def test_a_video_that_was_cut_off_is_told(tmp_path, checkpoints, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), dtype=np.uint8)
    path = written(tmp_path / "film.avi", list(noise), 10)
    assert run(checkpoints, path, "--no-pictures") == 0
    assert capsys.readouterr().err == ""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    count = len(list(read_frames(path)))
    assert 10 < count < 30 and run(checkpoints, path, "--no-pictures", "--quiet") == 0
    told = f"{count / 10:.1f} of the 6.0 s that it states could be read: it was trimmed, or is damaged"
    assert capsys.readouterr() == ("", f"{path}: {told}\n")


@pytest.mark.parametrize(("last", "told"), [(4.9, True), (5.5, False)])
@pytest.mark.parametrize("number", [30, 55])
def test_a_video_is_damaged_where_both_frames_and_time_are_missing(capsys, last, number, told):
    visualize.tell_what_is_missing("film.mp4", moment_of(number, last), 60, 10.0)
    assert (capsys.readouterr().err != "") == (told and number == 30)
    visualize.tell_what_is_missing("film.mp4", moment_of(number, last), 0, 25.0)  # a file that does not say
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("wrong", ["-1", "nan"])
def test_a_time_that_is_none_is_told(film, checkpoints, wrong):
    with pytest.raises(UserError, match="--smooth"):
        run(checkpoints, film, f"--smooth={wrong}")


def test_from_python_a_video_yields_its_moments(film, recognizer):
    moments = list(recognizer.recognize_video(film, every=4))
    assert [moment.number for moment in moments] == [0, 4, 8]
    assert [moment.seconds for moment in moments] == pytest.approx([0, 0.2, 0.4], abs=1e-3)
    assert [[person.number for person in moment.people] for moment in moments] == [[1, 2]] * 3
    with pytest.raises(UserError, match="does not exist"):
        list(recognizer.recognize_video(film.with_name("none.avi")))


def moment_of(number, seconds, **emotions):
    """A moment in which each person has an emotion with probability 0.9."""
    people = []
    for name, emotion in emotions.items():
        face: Face = face_of([0.9 if one == emotion else 0.1 / 6 for one in EMOTIONS])
        people.append(Person(int(name[1:]), face, face))
    return Moment(number, seconds, np.zeros((2, 2, 3), np.uint8), people)


def test_the_longest_stretch_is_broken_neither_by_other_people_nor_by_looks_far_apart():
    whole = summary.Summary()
    sequence = ["Happy"] * 5 + ["Sad"] * 3 + ["Happy"] * 9 + ["Sad"] * 8
    for number, emotion in enumerate(sequence):
        whole.add(moment_of(number, number * 1.5, p1=emotion, p7="Fear"))
    first, second = whole.rows("film.mp4")
    assert first["face"] == 1 and first["longest emotion"] == "Happy"
    assert first["longest seconds"] == pytest.approx(12) and first["longest from"] == pytest.approx(12)
    assert first["share Happy"] == pytest.approx(14 / 25) and first["emotion"] == "Happy"
    assert second["face"] == 7 and second["longest emotion"] == "Fear" and second["frames"] == 25
    assert "Happy 56%" in summary.sentence(first)


def test_the_plot_of_a_long_video_has_lines():
    """Of 45 minutes only every 32nd frame or so is kept."""
    whole, person = summary.Summary(), moment_of(0, 0.0, p1="Happy").people
    for number in range(45 * 60 * 25):
        whole.add(Moment(number, number / 25, None, person))
    figure = draw_timelines({number: one.points for number, one in whole.people.items()}, "film")
    lines = [line for line in figure.axes[0].lines if line.get_label() in ("valence", "arousal", "dominance")]
    assert len(lines) == 3
    for line in lines:
        finite = np.isfinite(line.get_ydata())
        assert len(finite) > 1000 and (finite[1:] & finite[:-1]).all()


def test_memory_does_not_grow_with_a_video():
    whole = summary.Summary()
    for number in range(5 * summary.MOST_POINTS):
        whole.add(moment_of(number, number / 25, p1="Happy"))
    (person,) = whole.people.values()
    assert summary.MOST_POINTS / 4 <= len(person.points) <= summary.MOST_POINTS and person.frames == 20000
    seconds = [point[0] for point in person.points]
    assert seconds[0] == 0 and seconds[-1] > 0.99 * 20000 / 25 and np.allclose(np.diff(seconds), np.diff(seconds)[0])
