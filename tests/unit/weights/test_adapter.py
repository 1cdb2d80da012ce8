"""What vLLM would refuse, misread or run as code in an adapter is named before an engine is started."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest
from tools.tiny_adapter import make_adapter
from tools.tiny_checkpoint import make_checkpoint

from conclave.api.modeldeployment import Adapter
from conclave_weights.errors import WeightsUnfit
from conclave_weights.files.headers import write_header
from conclave_weights.verify.adapter import RANKS, TENSORS, check_adapter, check_fits

MODULE = "base_model.model.model.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_checkpoint("llama-3", tmp_path_factory.mktemp("base"), layers=1)


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return make_adapter(base, tmp_path / "tone", rank=8)


def configured(**settings: Any) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        path = root / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | settings))

    return change


def holding(tensors: dict[str, tuple[int, ...]]) -> Callable[[Path], None]:
    """The adapter's tensors replaced by float32 zeros of these shapes."""

    def change(root: Path) -> None:
        header = write_header({name: ("F32", shape) for name, shape in tensors.items()})
        size = sum(4 * rows * (columns[0] if columns else 1) for rows, *columns in tensors.values())
        (root / TENSORS).write_bytes(header + bytes(size))

    return change


def pickled(root: Path) -> None:
    (root / TENSORS).rename(root / "adapter_model.bin")


def test_the_ranks_are_those_of_the_field() -> None:
    assert get_args(Adapter.model_fields["max_rank"].annotation) == RANKS


def test_a_sound_adapter_that_fits_passes(base: Path, adapter: Path) -> None:
    check_fits("tone", check_adapter("tone", adapter, max_rank=8), base)


def test_settings_that_leave_a_plain_lora_pass(adapter: Path) -> None:
    configured(use_dora=False, modules_to_save=None, rank_pattern={}, bias="none", use_rslora=True)(adapter)
    assert len(check_adapter("tone", adapter, max_rank=16)) == 14


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        pytest.param(
            lambda root: (root / "adapter_config.json").unlink(), "no adapter_config.json", id="without its config"
        ),
        pytest.param(
            lambda root: (root / "adapter_config.json").write_text("{"), "cannot be read", id="with half a config"
        ),
        pytest.param(
            lambda root: (root / "adapter_config.json").write_text("[]"), "has a JSON list", id="with another config"
        ),
        pytest.param(configured(peft_type="IA3"), "peft_type IA3, expected LORA", id="of another kind"),
        pytest.param(configured(r=16), "rank 16 in adapter_config.json is more than the maxRank 8", id="too large"),
        pytest.param(configured(r=9), "set maxRank of this adapter to at least 16", id="a little too large"),
        pytest.param(configured(rank_pattern={"q_proj": 40}), "to at least 64", id="too large in one module"),
        pytest.param(configured(r=1024), "vLLM takes at most 512", id="larger than any kernel"),
        pytest.param(configured(r="8"), 'rank "8"', id="whose rank is a word"),
        pytest.param(configured(r=True), "rank true", id="whose rank is a truth"),
        pytest.param(configured(r=0), "rank 0", id="of no rank"),
        pytest.param(configured(use_dora=True), "use_dora true, which vLLM does not serve", id="with DoRA"),
        pytest.param(configured(bias="all"), 'bias "all"', id="with biases"),
        pytest.param(configured(modules_to_save=["lm_head"]), 'modules_to_save ["lm_head"]', id="with whole modules"),
        pytest.param(pickled, "adapter_model.bin is a pickle, which can run code", id="as a pickle"),
        pytest.param(lambda root: (root / TENSORS).unlink(), f"no {TENSORS}", id="without tensors' file"),
        pytest.param(lambda root: (root / TENSORS).write_bytes(b"x" * 40), "damaged", id="with a damaged file"),
        pytest.param(holding({}), "has no tensor", id="without any tensor"),
        pytest.param(
            holding({f"{MODULE}.lora_magnitude_vector": (8,)}), "is not a lora_A or lora_B", id="with another tensor"
        ),
        pytest.param(holding({f"{MODULE}.lora_A.weight": (32, 128)}), "has rank 32", id="whose tensors say otherwise"),
    ],
)
def test_an_adapter_is_refused(adapter: Path, damage: Callable[[Path], None], message: str) -> None:
    damage(adapter)
    with pytest.raises(WeightsUnfit) as refusal:
        check_adapter("tone", adapter, max_rank=8)
    assert message in str(refusal.value)


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        pytest.param(
            {f"{MODULE}.lora_A.weight": (8, 64), f"{MODULE}.lora_B.weight": (128, 8)},
            "is of shape [8, 64], for inputs of 64; the model in",
            id="of a narrower model",
        ),
        pytest.param(
            {f"{MODULE}.lora_A.weight": (8, 128), f"{MODULE}.lora_B.weight": (512, 8)},
            "for outputs of 512",
            id="of more heads",
        ),
        pytest.param({f"{MODULE}.lora_A.weight": (8, 128)}, "without", id="with half a pair"),
        pytest.param(
            {
                f"{MODULE.replace('layers.0', 'layers.7')}.lora_A.weight": (8, 128),
                f"{MODULE.replace('layers.0', 'layers.7')}.lora_B.weight": (128, 8),
            },
            "has no model.layers.7.self_attn.q_proj",
            id="of a deeper model",
        ),
    ],
)
def test_an_adapter_of_another_model_is_refused(
    base: Path, adapter: Path, tensors: dict[str, tuple[int, ...]], message: str
) -> None:
    holding(tensors)(adapter)
    with pytest.raises(WeightsUnfit) as refusal:
        check_fits("tone", check_adapter("tone", adapter, max_rank=8), base)
    assert message in str(refusal.value)


def test_an_adapter_has_a_digest_and_is_verified_as_its_init_container_does(adapter: Path) -> None:
    digest = subprocess.run(
        [sys.executable, "-m", "conclave_cli.main", "weights", "digest", str(adapter)], capture_output=True, text=True
    )
    assert (digest.returncode, digest.stderr) == (0, "")
    command = [sys.executable, "-m", "conclave_weights", "verify", "--digest", digest.stdout.strip(), str(adapter)]
    verified = subprocess.run(command, capture_output=True, text=True)
    assert (verified.returncode, verified.stderr) == (0, "")
    configured(peft_type="IA3")(adapter)
    refused = subprocess.run(command, capture_output=True, text=True)
    assert refused.returncode == 4
    assert "peft_type IA3, expected LORA" in refused.stderr
