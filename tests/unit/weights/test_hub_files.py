"""Which files of a repository are downloaded where nobody says so; listings are as public repositories have them."""

from __future__ import annotations

import pytest

from conclave_weights.transfer.hub_files import choose_files, pickled_weights

BESIDE = ("LICENSE", "README.md", "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
SHARDS = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json")
REPOSITORIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "safetensors with the publisher's own format below": (
        (*BESIDE, *SHARDS, "original/consolidated.00.pth", "original/params.json", "USE_POLICY.pdf"),
        (*BESIDE, *SHARDS),
    ),
    "Mistral's layout beside the hub's": (
        (*BESIDE, *SHARDS, "consolidated.safetensors", "params.json", "tekken.json"),
        (*BESIDE, *SHARDS, "params.json", "tekken.json"),
    ),
    "Mistral's layout only": (("consolidated.safetensors", "params.json", "tekken.json"),) * 2,
    "other formats and code beside": (
        (*BESIDE, *SHARDS, "metal/model.bin", "onnx/model.onnx", "model.gguf", "modeling_x.py", "flax_model.msgpack"),
        (*BESIDE, *SHARDS),
    ),
    "a tokenizer of ranks and a chat template": (
        ("config.json", "model.safetensors", "x.tiktoken", "chat_template.jinja", "merges.txt", "tokenizer.model"),
    )
    * 2,
    "quantization beside config.json": (("config.json", "hf_quant_config.json", "model.safetensors"),) * 2,
    "an adapter": (
        ("README.md", "adapter_config.json", "adapter_model.safetensors", "runs/events.out.tfevents.1"),
        ("README.md", "adapter_config.json", "adapter_model.safetensors"),
    ),
    "PyTorch's pickles, with those of a training": (
        ("config.json", "pytorch_model.bin", "training_args.bin", "optimizer.pt"),
        ("config.json", "pytorch_model.bin"),
    ),
    "pickles beside safetensors": (
        ("config.json", "model.safetensors", "pytorch_model.bin"),
        ("config.json", "model.safetensors"),
    ),
    "the release of Grok-1": (("README.md", "ckpt-0/tensor00000_000", "ckpt-0/tensor00001_000", "tokenizer.model"),)
    * 2,
    "GGUF only": (("README.md", "config.json", "x.Q4_K_M.gguf"), ()),
    "no weights": (("README.md", "config.json"), ()),
    "nothing": ((), ()),
}


@pytest.mark.parametrize(("listed", "chosen"), REPOSITORIES.values(), ids=REPOSITORIES)
def test_the_files_are_chosen(listed: tuple[str, ...], chosen: tuple[str, ...]) -> None:
    assert choose_files(listed) == tuple(sorted(chosen))
    assert choose_files(reversed(listed)) == tuple(sorted(chosen))


PICKLED: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "shards": (("pytorch_model-1.bin", "pytorch_model-2.bin"), ("pytorch_model-1.bin", "pytorch_model-2.bin")),
    "another name": (("model.pth", "scheduler.pt"), ("model.pth",)),
    "Grok-1's tensors": (("ckpt-0/tensor00000_000",), ("ckpt-0/tensor00000_000",)),
    "beside safetensors": (("pytorch_model.bin", "model.safetensors"), ()),
    "in a directory of their own": (("original/consolidated.00.pth",), ()),
}


@pytest.mark.parametrize(("listed", "pickled"), PICKLED.values(), ids=PICKLED)
def test_pickles_are_those_that_a_conversion_reads(listed: tuple[str, ...], pickled: tuple[str, ...]) -> None:
    assert pickled_weights(listed) == pickled
