"""The settings of `conclave operator run`: from a file and from options, and what is wrong with either."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from conclave.errors import InvalidInput
from conclave.settings import OperatorSettings
from conclave_cli.operator import load_settings


def _file(directory: Path, content: bytes) -> Path:
    path = directory / "operator.yaml"
    path.write_bytes(content)
    return path


def test_options_win_over_the_file(tmp_path: Path) -> None:
    config = _file(tmp_path, b"image: a/b:1\ndata_classes: [open]\ncluster_domain: corp\n")
    assert load_settings(config, "c/d:2", "low, high") == OperatorSettings(
        image="c/d:2", data_classes=("low", "high"), cluster_domain="corp"
    )


REFUSED: dict[str, tuple[bytes, str]] = {
    "a binary file": (b"\x80\x02\xff", "operator.yaml:1: byte 0 is not UTF-8: save the file as UTF-8"),
    "no YAML": (b"image: x\ndata_classes: [a\n", "operator.yaml:3: not YAML: expected ',' or ']'"),
    "a list": (b"- image\n", "operator.yaml:1: holds a list, expected one object"),
    "two documents": (b"image: x\n---\nimage: y\n", "operator.yaml:1: holds 2 documents, expected one object"),
    "nothing": (b"", "operator.yaml:1: holds no document"),
    "a setting that is given twice": (b"image: x\nimage: y\n", "operator.yaml:2: image: is given twice"),
    "an unknown setting": (
        b"image: x\nimag: y\n",
        "operator.yaml:2: imag: field not declared in schema: did you mean image?",
    ),
    "a number for an image": (
        b"cluster_domain: x\nimage: 3\n",
        'operator.yaml:2: image: Invalid value: "integer": image in body must be of type string',
    ),
    "no image": (b"cluster_domain: x\n", "operator.yaml:1: image: Required value: Serving image where"),
    "a data class with a space": (
        b"image: x\ndata_classes:\n- a\n- top secret\n",
        'operator.yaml:4: data_classes[1]: "top secret" is not a data class: lower-case letters',
    ),
    "no data class": (
        b"image: x\ndata_classes: []\n",
        "operator.yaml:2: data_classes: 0 data classes are listed, 1 to 16 are expected",
    ),
    "every image of a registry": (
        b"image: x\nallowed_images: [registry.example/*]\n",
        'operator.yaml:2: allowed_images[0]: "registry.example/*" is not an image reference, or registry/repository:* ',
    ),
    "every service account": (
        b"image: x\nallowed_service_accounts: ['*']\n",
        'allowed_service_accounts[0]: "*" is not a service account: its name, of any namespace, or NAMESPACE/NAME',
    ),
    "a proxy with a password": (
        b"image: x\nhttps_proxy: http://user:word@proxy:3128\n",
        "operator.yaml:2: https_proxy: the value is not the URL of a proxy: http:// or https://",
    ),
    "a port that is none": (b"image: x\napi_server_ports: [443, 65536]\n", "operator.yaml:2: api_server_ports[1]: "),
    "a data class twice": (b"image: x\ndata_classes: [a, a]\n", "data_classes: a data class is listed twice in a, a"),
}


@pytest.mark.parametrize(("content", "message"), REFUSED.values(), ids=REFUSED)
def test_what_is_wrong_with_the_file_is_told_with_its_line(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        load_settings(_file(tmp_path, content), None, None)
    assert message in str(refusal.value)
    assert "word@" not in str(refusal.value)


def test_a_file_that_does_not_exist_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match=r"absent\.yaml: no such file; correct the path"):
        load_settings(tmp_path / "absent.yaml", None, None)


OPTIONS: dict[str, tuple[dict[str, Any], str]] = {
    "no image": (
        {"default_image": None, "data_classes": None},
        "the operator's settings: image: Required value: Serving image where `runtime.image` is left out. "
        "Give --default-image or --config FILE.",
    ),
    "only a comma": (
        {"default_image": "x", "data_classes": ","},
        '--data-classes ",": "" is not a data class: lower-case letters, digits and dashes, such as confidential; '
        "give names separated by commas, such as public,internal",
    ),
}


@pytest.mark.parametrize(("options", "message"), OPTIONS.values(), ids=OPTIONS)
def test_what_is_wrong_with_the_options_is_told(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidInput) as refusal:
        load_settings(None, **options)
    assert str(refusal.value) == message
