"""Faces in videos: who is followed, what is written, what is interrupted."""

import math

import av
import numpy as np
import pandas
import pytest
from PIL import Image

from data.demo.drawing import draw_face
from inference import video
from inference.figures import plot_timelines
from inference.output import VIDEO_COLUMNS, OutputPaths, TableWriter
from inference.recognizer import EmotionRecognizer
from inference.tracking import PEOPLE_COLUMNS
from inference.video import FaceVideoAnalyzer
from inference.video_io import VideoReader
from tests.harness import write_film
from utils.files import UserError
from utils.tasks import DIMENSIONS, EMOTIONS

SIDE = 130


def scene(places, level):
    """A frame of 640x480, uint8 RGB: {seed of a drawn face: its left top corner}, back to front."""
    grey = np.full((480, 640), level, np.uint8)
    for seed, (left, top) in places.items():
        grey[top : top + SIDE, left : left + SIDE] = draw_face(6, (0, 0, 0), seed, SIDE)
    return np.repeat(grey[:, :, None], 3, axis=2)


def crossing():
    """([{seed: place}], [(number, seconds, frame)]): two people cross; then a cut to two others."""
    places = [{4: (470 - 11 * n, 190), 3: (40 + 11 * n, 200)} for n in range(40)]
    places += [{6: (40 + 3 * n, 200), 9: (470 - 3 * n, 190)} for n in range(20)]
    gaps = np.where(np.arange(len(places)) % 7 < 3, 0.08, 0.04)  # the frame rate varies
    times = np.cumsum(gaps) - gaps[0]
    frames = [scene(each, 150 if number < 40 else 60) for number, each in enumerate(places)]
    return places, list(zip(range(len(frames)), times.tolist(), frames, strict=True))


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A film of 12 frames, 20 a second, with sound, of two people."""
    frames = [frame for _, _, frame in crossing()[1][:12]]
    return write_film(tmp_path_factory.mktemp("film") / "film.mp4", frames, sound="aac")


@pytest.fixture(scope="module")
def recognizer(checkpoints):
    return EmotionRecognizer(checkpoints, device="cpu", precision="fp32")


@pytest.fixture
def save(recognizer, tmp_path):
    """Write what a film shows to tmp_path/out."""
    outputs = OutputPaths(tmp_path / "out")
    return lambda path, tables=(), **options: video.save_video_results(
        recognizer, path, outputs, tables, **options
    )


def test_two_who_cross_keep_their_numbers_and_after_a_cut_all_are_new(recognizer):
    places, frames = crossing()
    seen = {}
    for result in FaceVideoAnalyzer(recognizer).analyze(frames):
        truth = places[result.frame]
        for seed, (left, top) in truth.items():
            visible = seed != 4 or abs(truth[3][0] - left) > SIDE
            middle = (left + SIDE / 2, top + SIDE / 2)
            near = [f for f in result.faces if math.dist(f.box.middle, middle) < SIDE / 2]
            if visible and near:
                assert len(near) == 1
                seen.setdefault(seed, []).append(near[0].number)
    assert all(len(set(numbers)) == 1 for numbers in seen.values()), seen
    assert len({numbers[0] for numbers in seen.values()}) == 4
    assert len(seen[3]) >= 36 and len(seen[4]) >= 20 and len(seen[6]) >= 18 and len(seen[9]) >= 18


def test_from_python_a_video_yields_faces_with_their_place(film, recognizer, monkeypatch):
    monkeypatch.setattr(recognizer, "explain", True)  # of pictures
    monkeypatch.setattr("inference.recognizer.heat_maps", None)  # so it must not be called
    results = list(recognizer.iter_video(film, every=4))
    assert [result.frame for result in results] == [0, 4, 8]
    assert [result.time for result in results] == pytest.approx([0, 0.2, 0.4], abs=1e-3)
    rows = [face.to_dict() for result in results for face in result.faces]
    assert [row["face"] for row in rows] == [1, 2] * 3 and set(rows[0]) == set(VIDEO_COLUMNS)
    assert [row["frame"] for row in rows] == [0, 0, 4, 4, 8, 8]
    assert rows[2]["file"] == str(film) and rows[2]["time"] == pytest.approx(0.2, abs=1e-3)


@pytest.mark.parametrize("options", [{"every": 0}, {"smoothing": -1}, {"smoothing": math.nan}])
def test_options_that_cannot_be_used_are_refused(film, recognizer, options):
    with pytest.raises(UserError, match=next(iter(options))):
        list(recognizer.iter_video(film, **options))


def test_a_video_gives_tables_of_faces_and_people(film, tmp_path, save):
    with TableWriter(tmp_path / "a.csv", VIDEO_COLUMNS) as table:
        save(film, [table], pictures=False, every=2, smoothing=0.2)
    out = tmp_path / "out"
    names = ["film_emotion.csv", "film_emotion_people.csv"]
    assert sorted(path.name for path in out.iterdir()) == names
    rows, people = (pandas.read_csv(out / name) for name in names)
    assert tuple(rows.columns) == VIDEO_COLUMNS and tuple(people.columns) == PEOPLE_COLUMNS
    assert (tmp_path / "a.csv").read_bytes() == (out / names[0]).read_bytes()
    assert set(rows["frame"] % 2) == {0} and people["face"].tolist() == [1, 2]
    for person in people.itertuples():
        mine = rows[rows["face"] == person.face]
        assert person.frames == len(mine) >= 5
        assert person.mean_valence == pytest.approx(mine["valence"].mean(), abs=2e-4)
        for name in EMOTIONS:
            share = (mine["smoothed_emotion"] == name).mean()
            assert getattr(person, f"share_{name.lower()}") == pytest.approx(share, abs=1e-4)
        decay, (expected, *others) = math.exp(-0.1 / 0.2), mine["happy"]
        smoothed = [expected]
        for value in others:
            smoothed.append(decay * smoothed[-1] + (1 - decay) * value)
        assert mine["smoothed_happy"].tolist() == pytest.approx(smoothed, abs=3e-4)


def test_a_video_is_annotated_and_keeps_its_sound_and_times(film, tmp_path, save):
    save(film, every=3)
    read, written = (list(VideoReader(path)) for path in (film, tmp_path / "out/film_emotion.mp4"))
    assert [each[1] for each in written] == pytest.approx([each[1] for each in read], abs=2e-3)
    for (_, _, frame), (_, _, annotated) in zip(read, written, strict=True):
        coloured = np.ptp(annotated.astype(int), axis=2) > 60
        assert coloured.sum() > 500 and np.ptp(frame.astype(int), axis=2).max() < 20
    with av.open(str(tmp_path / "out/film_emotion.mp4")) as container:
        assert [stream.codec_context.name for stream in container.streams.audio] == ["aac"]
    with Image.open(tmp_path / "out/film_emotion.png") as figure:
        assert figure.width > 500
    save(film, every=3)  # its own results are replaced
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_after_ctrl_c_what_was_seen_is_written(film, tmp_path, save, monkeypatch):
    annotate, count = video.annotate, []

    def interrupted(image, faces):
        count.append(1)
        if len(count) == 6:
            raise KeyboardInterrupt
        return annotate(image, faces)

    monkeypatch.setattr(video, "annotate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(film)
    rows = pandas.read_csv(tmp_path / "out/film_emotion.csv")
    assert set(rows["frame"]) >= set(range(5))
    assert pandas.read_csv(tmp_path / "out/film_emotion_people.csv")["face"].tolist() == [1, 2]
    assert len(list(VideoReader(tmp_path / "out/film_emotion.mp4"))) == 5


def test_after_ctrl_c_in_the_first_frame_no_empty_video_is_left(film, tmp_path, save, monkeypatch):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(video, "annotate", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(film)
    assert not list((tmp_path / "out").glob("*.mp4*"))
    assert set(pandas.read_csv(tmp_path / "out/film_emotion.csv")["frame"]) == {0}


def test_a_video_that_was_cut_off_is_read_and_reported(tmp_path, save, capsys):
    noise = np.random.default_rng(0).integers(0, 256, (60, 48, 64, 3), dtype=np.uint8)
    path = write_film(tmp_path / "film.avi", list(noise), rate=10, codec="mjpeg")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    save(path, pictures=False, log=lambda text: None)
    captured = capsys.readouterr()
    assert captured.out == "" and str(path) in captured.err and "of 6.0 s" in captured.err
    rows = pandas.read_csv(tmp_path / "out/film_emotion.csv")
    people = pandas.read_csv(tmp_path / "out/film_emotion_people.csv")
    assert tuple(rows.columns) == VIDEO_COLUMNS and rows.empty
    assert tuple(people.columns) == PEOPLE_COLUMNS and people.empty
    (tmp_path / "none.mp4").write_bytes(b"no video")
    with pytest.raises(UserError, match=r"none\.mp4"):
        save(tmp_path / "none.mp4")


def video_rows(frames):
    """Rows of the people {number: frames} of a video."""
    rows = []
    for person, count in frames.items():
        mine = {"time": np.arange(count) / 25, "face": person, "smoothed_emotion": "Sad"}
        mine |= {f"smoothed_{name.lower()}": 0.1 * person for name in DIMENSIONS}
        rows.append(pandas.DataFrame(mine))
    return pandas.concat(rows)


def test_the_figure_shows_lines_of_the_people_who_are_seen_longest():
    figure = plot_timelines(video_rows({number: number + 1 for number in range(1, 12)}), "film $1$")
    labels = [axes.get_ylabel() for axes in figure.axes[::2]]
    assert labels == [f"face {number}" for number in range(6, 12)]
    assert "6 of 11 people" in figure.axes[0].get_title()
    valence = next(line for line in figure.axes[0].lines if line.get_label() == "valence")
    assert np.allclose(valence.get_ydata(), 0.6) and np.allclose(np.diff(valence.get_xdata()), 0.04)
    assert len(figure.axes[1].collections[0].get_offsets()) == 7
    empty = plot_timelines(video_rows({1: 2}).iloc[:0], "film")
    assert "no face" in empty.axes[0].get_title()


def test_the_lines_of_a_long_video_are_thinned():
    count = 45 * 60 * 25
    figure = plot_timelines(video_rows({1: count}), "film")
    times = figure.axes[0].lines[0].get_xdata()
    assert 2000 < len(times) <= 4000 and np.allclose(np.diff(times), times[1])
    assert times[-1] > 0.99 * count / 25
