"""Media values as pictures, sound and frames, and their content hashes.

A value is a path, bytes, `{"bytes": ..., "path": ...}`, a base64 string or data URL, a PIL image, or an array.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hashlib
import io
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeGuard

from omnipref.errors import CapabilityError, DataError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image

MAX_PIXELS = 89_478_485
"""Largest picture that is opened, in pixels: Pillow's own bound against decompression bombs."""

_BASE64_STARTS = ("/9j/", "iVBORw0KGgo", "R0lGOD", "UklGR", "Qk", "AAAA", "SUQz", "T2dn", "ZkxhQ")
_SUFFIXES = {
    b"\x89PNG": ".png",
    b"\xff\xd8": ".jpg",
    b"GIF8": ".gif",
    b"RIFF": ".webp",
    b"fLaC": ".flac",
    b"OggS": ".ogg",
}


def is_url(value: Any) -> bool:
    """Whether a value is an address on the web."""
    return isinstance(value, str) and value.startswith(("http://", "https://"))


def is_path(value: Any) -> TypeGuard[str | os.PathLike[str]]:
    """Whether a value names a file, rather than holding the medium itself or an address.

    Example:
        >>> is_path("images/cat.png"), is_path("https://a.org/b.png"), is_path("data:image/png;base64,iVBORw0KGgo=")
        (True, False, False)
    """
    if isinstance(value, os.PathLike):
        return True
    return isinstance(value, str) and not is_url(value) and not value.startswith("data:") and not _is_base64(value)


def _is_base64(value: str) -> bool:
    return len(value) > 64 and value.startswith(_BASE64_STARTS) and not Path(value[-16:]).suffix


def payload(value: Any, *, field: str | None = None) -> bytes:
    """The encoded bytes of a medium that is a path, bytes, a dict of these, base64 or a data URL.

    Raises:
        DataError: a missing file, a web address, broken base64, or another kind of value.
    """
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    if isinstance(value, Mapping):
        inside = next((value[key] for key in ("bytes", "path", "base64", "url") if value.get(key) is not None), None)
        return payload(inside, field=field)
    if is_url(value):
        cure = "read the set through `datasets`, which fetches, or download the files and name their paths"
        raise DataError(f"the address {value[:80]}", "a local file or bytes", cure=cure, field=field)
    if is_path(value):
        return _file_bytes(value, field)
    if isinstance(value, str):
        try:
            return base64.b64decode(value.partition(",")[2] if value.startswith("data:") else value, validate=True)
        except binascii.Error as error:
            raise DataError(f"broken base64 ({error})", "base64", cure="encode it again", field=field) from None
    raise DataError(f"a {type(value).__name__}", "a path, bytes, base64 or a picture", field=field)


def _file_bytes(value: str | os.PathLike[str], field: str | None) -> bytes:
    try:
        return Path(value).read_bytes()
    except OSError as error:
        raise DataError(
            f"no readable file at {os.fspath(value)[-120:]} ({error.strerror})",
            "a file",
            cure="mend the path (relative paths start at the data file's folder) or drop the record",
            field=field,
        ) from None


def check_exists(value: Any, *, field: str | None = None) -> None:
    """Refuse a medium whose file is missing, without reading it.

    Raises:
        DataError: no file there.
    """
    if isinstance(value, (list, tuple)):
        for item in value:
            check_exists(item, field=field)
        return
    if isinstance(value, Mapping):
        value = None if any(value.get(key) is not None for key in ("bytes", "array")) else value.get("path")
    if value is not None and is_path(value) and not os.path.exists(value):
        _file_bytes(value, field)


def load_image(value: Any, *, field: str | None = None) -> Image:
    """A picture as PIL RGB, turned upright by its EXIF orientation.

    Raises:
        DataError: missing, corrupt, a web address, or more than `MAX_PIXELS`.
    """
    from PIL import ImageOps

    image = _opened(value, field)
    try:
        return ImageOps.exif_transpose(image).convert("RGB")
    except (OSError, SyntaxError, ValueError) as error:
        raise _corrupt(error, value, field) from None


def image_size(value: Any, *, field: str | None = None) -> tuple[int, int]:
    """Width and height in pixels, from the header alone; raises as `load_image` does."""
    return _opened(value, field).size


def _opened(value: Any, field: str | None) -> Image:
    from PIL import Image

    if hasattr(value, "__array_interface__") and not isinstance(value, Image.Image):
        value = Image.fromarray(value)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        try:
            image = value if isinstance(value, Image.Image) else Image.open(io.BytesIO(payload(value, field=field)))
        except Image.DecompressionBombError as error:
            raise _too_large(str(error), field) from None
        except (OSError, SyntaxError, ValueError) as error:
            raise error if isinstance(error, DataError) else _corrupt(error, value, field) from None
    if image.width * image.height > MAX_PIXELS:
        raise _too_large(f"a picture of {image.width}x{image.height} pixels", field)
    return image


def _corrupt(error: Exception, value: Any, field: str | None) -> DataError:
    path = value.get("path") if isinstance(value, Mapping) else value
    place = f" at {os.fspath(path)[-120:]}" if is_path(path) else ""
    # Pillow names the buffer that it read from by its address, which tells nobody anything.
    why = "no known kind of picture" if "cannot identify" in str(error) else str(error)
    cure = "fetch it again or drop the record"
    return DataError(f"a corrupt picture{place} ({why})", "a picture", cure=cure, field=field)


def _too_large(found: str, field: str | None) -> DataError:
    cure = "make it smaller, for example `PIL.Image.open(path).resize((2048, 2048)).save(path)`"
    return DataError(found, f"at most {MAX_PIXELS // 10**6} megapixels", cure=cure, field=field)


def media_key(value: Any) -> str:
    """A stable hash of a medium's content, 32 hexadecimal digits, for caches and duplicates.

    Encoded media (files, bytes, base64) are hashed as encoded, pictures and arrays by their pixels or numbers; so two
    forms of one picture agree only within each kind.

    Example:
        >>> media_key(b"a") == media_key({"bytes": b"a", "path": "b.png"})
        True
    """
    if is_url(value):
        return _digest(b"url", value.encode())
    if isinstance(value, (list, tuple)):
        return _digest(b"list", *(media_key(item).encode() for item in value))
    if isinstance(value, Mapping) and value.get("array") is not None:
        return _digest(b"sound", str(value.get("sampling_rate")).encode(), _array_key(_samples(value)).encode())
    if hasattr(value, "__array_interface__"):
        return _array_key(value)
    if is_path(value):
        return _path_key(os.fspath(value), *_stamp(value))
    return _digest(b"bytes", payload(value))


def _array_key(value: Any) -> str:
    import numpy as np

    array = np.ascontiguousarray(value)
    mode = str(getattr(value, "mode", ""))
    return _digest(b"array", f"{mode}{array.dtype}{array.shape}".encode(), array.tobytes())


def _stamp(value: Any) -> tuple[int, int]:
    if not os.path.exists(value):
        return (0, 0)
    stat = os.stat(value)
    return stat.st_mtime_ns, stat.st_size


@functools.lru_cache(maxsize=65536)
def _path_key(path: str, *stamp: int) -> str:
    return _digest(b"bytes", _file_bytes(path, None))


def _digest(*pieces: bytes) -> str:
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(len(piece).to_bytes(8, "little") + piece)
    return digest.hexdigest()[:32]


def suffix_of(data: bytes) -> str:
    """The file suffix that a medium's first bytes ask for, `.bin` where they are unknown.

    Example:
        >>> suffix_of(b"\\x89PNG...")
        '.png'
    """
    if data[:4] == b"RIFF" and data[8:12] == b"WAVE":
        return ".wav"
    if data[4:8] == b"ftyp":
        return ".mp4"
    return next((suffix for start, suffix in _SUFFIXES.items() if data.startswith(start)), ".bin")


def load_audio(value: Any, *, field: str | None = None) -> tuple[np.ndarray, int]:
    """Sound as float32 `[samples]` (channels averaged) and its sampling rate in Hz.

    Raises:
        DataError: missing or corrupt.
        CapabilityError: the extra `audio` is not installed and the value is encoded sound.
    """
    import numpy as np

    if isinstance(value, Mapping) and value.get("array") is not None:
        return _mono(_samples(value).astype(np.float32)), int(value["sampling_rate"])
    data = payload(value, field=field)
    try:
        import soundfile  # pyright: ignore[reportMissingImports] (an extra)
    except ImportError:
        raise CapabilityError("reading encoded sound needs soundfile: pip install 'omnipref[audio]'") from None
    try:
        samples, rate = soundfile.read(io.BytesIO(data), dtype="float32")
    except soundfile.LibsndfileError as error:
        cure = "convert it to WAV or FLAC, or drop the record"
        raise DataError(f"corrupt sound ({error})", "a sound file", cure=cure, field=field) from None
    return _mono(samples), int(rate)


def _samples(value: Mapping[str, Any]) -> np.ndarray:
    """The samples of `{"array": ..., "sampling_rate": ...}`, whose array may be the path of a `.npy` file."""
    import numpy as np

    array = value["array"]
    if not is_path(array):
        return np.asarray(array)
    return np.load(io.BytesIO(_file_bytes(array, None)))


def _mono(samples: np.ndarray) -> np.ndarray:
    return samples if samples.ndim == 1 else samples.mean(axis=int(samples.shape[0] > samples.shape[-1]))


def load_video(value: Any, *, frames: int = 8, field: str | None = None) -> np.ndarray:
    """Frames spread evenly over a video, uint8 `[frames, height, width, 3]`; fewer where the video is shorter.

    Raises:
        DataError: missing, corrupt or without frames.
        CapabilityError: the extra `video` is not installed and the value is an encoded video.
    """
    import numpy as np

    if isinstance(value, (list, tuple)):
        images = [np.asarray(load_image(item, field=field)) for item in value]
    elif hasattr(value, "__array_interface__"):
        images = list(np.asarray(value))
    else:
        images = _decoded_frames(payload(value, field=field), field)
    if not images:
        raise DataError("a video without frames", "at least one frame", cure="drop the record", field=field)
    picks = np.linspace(0, len(images) - 1, min(frames, len(images))).round().astype(int)
    return np.stack([images[i] for i in picks])


def _decoded_frames(data: bytes, field: str | None) -> list[Any]:
    try:
        import av  # pyright: ignore[reportMissingImports] (an extra)
    except ImportError:
        raise CapabilityError("reading encoded video needs av: pip install 'omnipref[video]'") from None
    try:
        with av.open(io.BytesIO(data)) as container:
            return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    except (av.FFmpegError, IndexError) as error:
        cure = "encode it again as MP4, or drop the record"
        raise DataError(f"a corrupt video ({error})", "a video file", cure=cure, field=field) from None
