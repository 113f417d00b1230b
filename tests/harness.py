"""Small networks and their files, and programs run in this process."""

from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

import visualize
from data.demo.drawing import draw_face
from models import checkpoint
from models.multitask import MultiTask
from utils.tasks import TASKS

PREPROCESSING = {"mean": 0.5, "std": 0.25}


def make_model(seed=0, tasks=tuple(TASKS), sharing="trunk"):
    """An untrained network of few channels whose outputs differ from face to face."""
    torch.manual_seed(seed)
    model = MultiTask(tasks, sharing, base=8)
    for name, head in model.heads.items():
        torch.nn.init.normal_(head.weight, std=1 if name == "classify" else 8)
    model(torch.randn(64, 1, 44, 44))
    return model.eval()


def save_checkpoints(folder, model, tasks=tuple(TASKS), split="PrivateTest", epoch=3, **changes):
    """Save a network as the files of a run that are best on `split`; returns the folder."""
    description = {"dataset": "FER2013", "model": "Narrow", "preprocessing": PREPROCESSING}
    for name in tasks:
        content = checkpoint.task_checkpoint(model, name, epoch, {}, description | changes)
        checkpoint.save(folder / TASKS[name].checkpoint(split), content)
    return folder


def write_faces(folder, count, side=48):
    """Write drawn faces as 000.png, 001.png, ...; returns the folder."""
    folder.mkdir(exist_ok=True)
    for number in range(count):
        face = draw_face(number % 7, (0, 0, 0), number, side)
        Image.fromarray(face).save(folder / f"{number:03}.png")
    return folder


def paste_faces(places, side, size=(400, 600), seed=3):
    """A plain grey picture with drawn faces whose top left corners are `places`."""
    picture = np.full(size, 150, np.uint8)
    for number, (left, top) in enumerate(places):
        face = draw_face(6, (0, 0, 0), seed + number, side)
        picture[top : top + side, left : left + side] = face
    return picture


def run_visualize(checkpoints, *arguments):
    """visualize.py on the processor with these checkpoints; returns its exit code."""
    flags = ["--checkpoints", checkpoints, "--device", "cpu"]
    return run_module(visualize, *flags, *arguments)


def run_module(module, *arguments):
    """Call a program's `main` with command-line arguments; returns its exit code."""
    return module.main(module.build_parser().parse_args([str(text) for text in arguments]))


def write_film(path, frames, rate=20, codec="libx264", times=None, sound=None):
    """Write uint8 (H, W, 3) RGB frames as a video, or skip where an encoder is missing.

    times: seconds of each frame (default: by the rate); sound: the codec of a tone of 440 Hz.
    """
    missing = {codec, sound} - {None} - av.codecs_available
    if missing:
        pytest.skip(f"this FFmpeg has no encoder {missing}")
    times = times or [number / rate for number in range(len(frames))]
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate)
        stream.height, stream.width = frames[0].shape[:2]
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        voice = sound and container.add_stream(sound, rate=48_000, layout="mono")
        base = Fraction(1, rate if codec == "mjpeg" else 1000)  # AVI has one rate
        stream.codec_context.time_base = base
        for image, seconds in zip(frames, times, strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts, frame.time_base = round(seconds / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if voice:
            tone = np.sin(2 * np.pi * 440 * np.arange(round(48_000 * times[-1])) / 48_000)
            frame = av.AudioFrame.from_ndarray(tone[None].astype(np.float32), "flt", "mono")
            frame.sample_rate, frame.pts = 48_000, 0
            container.mux(voice.encode(frame))
            container.mux(voice.encode())
    return path
