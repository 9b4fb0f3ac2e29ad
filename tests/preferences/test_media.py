"""Media values in all their forms, and those that must be refused."""

from __future__ import annotations

import base64
import importlib.util
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from omnipref.errors import CapabilityError, DataError
from omnipref.preferences import image_size, load_audio, load_image, load_video, media_key


def picture() -> Image.Image:
    return Image.fromarray(np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3))


def png() -> bytes:
    buffer = io.BytesIO()
    picture().save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["path", "string", "bytes", "dict", "dict path", "base64", "url", "pil", "array"])
def test_every_form_is_the_same_picture(form: str, tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(png())
    coded = base64.b64encode(png()).decode()
    value = {
        "path": path,
        "string": str(path),
        "bytes": png(),
        "dict": {"bytes": png(), "path": "elsewhere.png"},
        "dict path": {"bytes": None, "path": str(path)},
        "base64": coded,
        "url": f"data:image/png;base64,{coded}",
        "pil": picture(),
        "array": np.asarray(picture()),
    }[form]
    assert np.array_equal(np.asarray(load_image(value)), np.asarray(picture()))
    assert image_size(value) == (7, 5)
    encoded = form not in ("pil", "array")
    assert (media_key(value) == media_key(png())) is encoded
    assert media_key(value) == media_key(value)


def test_keys_follow_the_content(tmp_path: Path):
    path = tmp_path / "a.png"
    path.write_bytes(png())
    before = media_key(path)
    assert len(before) == 32 and before == media_key(png())
    path.write_bytes(png() + b"more")
    assert media_key(path) != before
    assert media_key(picture()) != media_key(picture().transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert media_key([png(), b"x"]) != media_key([b"x", png()])
    sound = {"array": [0.0, 0.5], "sampling_rate": 8000}
    assert media_key(sound) == media_key({**sound, "array": np.array([0.0, 0.5])})
    assert media_key(sound) != media_key({**sound, "sampling_rate": 16000})


def test_grey_transparent_and_turned_pictures_become_upright_rgb(tmp_path: Path):
    assert load_image(picture().convert("L")).mode == load_image(picture().convert("RGBA")).mode == "RGB"
    exif = Image.Exif()
    exif[0x0112] = 6
    picture().save(tmp_path / "turned.jpg", exif=exif)
    assert load_image(tmp_path / "turned.jpg").size == (5, 7)


def test_missing_file_names_the_path_and_field(tmp_path: Path):
    with pytest.raises(DataError, match=r"gone\.png.*To mend") as caught:
        load_image(tmp_path / "gone.png", field="images[1]")
    assert caught.value.field == "images[1]"
    with pytest.raises(DataError, match=r"gone\.png"):
        media_key(tmp_path / "gone.png")


@pytest.mark.parametrize("data", [b"", b"text", png()[:50], b"\xff\xd8\xff"])
def test_corrupt_pictures_are_refused(data: bytes):
    with pytest.raises(DataError, match="corrupt picture"):
        load_image(data, field="image")


def test_a_corrupt_picture_is_told_by_its_path(tmp_path: Path):
    path = tmp_path / "half.png"
    path.write_bytes(b"text")
    for value in (path, {"path": str(path)}):
        with pytest.raises(DataError, match=r"corrupt picture at .*half\.png \(no known kind of picture\)"):
            load_image(value)


def test_hundred_megapixels_are_refused_before_decoding(tmp_path: Path):
    path = tmp_path / "large.png"
    Image.new("1", (10_000, 10_000)).save(path)
    with pytest.raises(DataError, match=r"10000x10000.*89 megapixels.*resize"):
        load_image(path, field="image")
    Image.new("1", (20_000, 10_000)).save(path)
    with pytest.raises(DataError, match="200000000 pixels"):
        load_image(path, field="image")


def test_addresses_are_refused_with_a_way_out():
    with pytest.raises(DataError, match="datasets"):
        load_image("https://example.org/a.png")
    with pytest.raises(DataError, match="base64"):
        load_image("data:image/png;base64,!!!!")
    with pytest.raises(DataError, match="int"):
        load_image(5)
    assert media_key("https://example.org/a.png") != media_key("https://example.org/b.png")


def test_sound_from_arrays(tmp_path: Path):
    samples, rate = load_audio({"array": [0.0, 0.5, -0.5], "sampling_rate": 8000})
    assert samples.dtype == np.float32 and samples.tolist() == [0.0, 0.5, -0.5] and rate == 8000
    stereo, _ = load_audio({"array": [[0.0, 1.0, 1.0], [1.0, 1.0, 0.0]], "sampling_rate": 8000})
    assert stereo.tolist() == [0.5, 1.0, 0.5]
    np.save(tmp_path / "a.npy", samples)
    assert load_audio({"array": str(tmp_path / "a.npy"), "sampling_rate": 8000})[0].tolist() == samples.tolist()


def test_video_from_frames():
    frames = [Image.new("RGB", (2, 2), (i, i, i)) for i in range(9)]
    video = load_video(frames, frames=3)
    assert video.shape == (3, 2, 2, 3) and video[:, 0, 0, 0].tolist() == [0, 4, 8]
    assert load_video(np.stack([np.asarray(frame) for frame in frames]), frames=20).shape[0] == 9
    with pytest.raises(DataError, match="without frames"):
        load_video([])


@pytest.mark.skipif(importlib.util.find_spec("soundfile") is not None, reason="the extra is installed")
def test_encoded_sound_without_the_extra():
    with pytest.raises(CapabilityError, match=r"omnipref\[audio\]"):
        load_audio(b"RIFF")


@pytest.mark.skipif(importlib.util.find_spec("av") is not None, reason="the extra is installed")
def test_encoded_video_without_the_extra():
    with pytest.raises(CapabilityError, match=r"omnipref\[video\]"):
        load_video(b"....ftyp")


@pytest.mark.skipif(importlib.util.find_spec("soundfile") is None, reason="needs the extra `audio`")
def test_encoded_sound(tmp_path: Path):
    import soundfile  # pyright: ignore[reportMissingImports] (an extra)

    soundfile.write(tmp_path / "a.wav", np.array([0.0, 0.5, -0.5]), 8000)
    samples, rate = load_audio(tmp_path / "a.wav")
    assert rate == 8000 and samples.tolist() == pytest.approx([0.0, 0.5, -0.5], abs=1e-4)
    with pytest.raises(DataError, match="corrupt sound"):
        load_audio(b"no sound")
