"""Manifests made by chance from the CRD's schema: a third are valid, and each rule is held and broken many times.

A seed gives the same manifests everywhere. Most manifests have one field in focus, which is often wrong. A wrong string
is an example of its format with one thing changed. Used by tests/integration/test_rule_twins.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from random import Random
from typing import Any

from conclave.api.crd import make_crd
from conclave.api.modeldeployment import API_VERSION, KIND, MODEL_DEPLOYMENT
from conclave.policy.arguments import (
    Allowlist,
    Boolean,
    Choice,
    Decimal,
    Integer,
    Pattern,
    Setting,
    admission_rules,
    engine_argument_list,
    environment_list,
)

Schema = dict[str, Any]
Json = dict[str, Any]
Path = tuple[str, ...]

CRD = make_crd(MODEL_DEPLOYMENT, admission_rules())
SCHEMA: Schema = CRD["spec"]["versions"][0]["schema"]["openAPIV3Schema"]

HEX = "0123456789abcdef"
DIGEST = f"sha256:{HEX * 4}"
EXAMPLES = (
    *("", "a", "mixtral", "chat", "acme/tone", "weights", "a.b-c", "team-a", "A.b_c-1", "0", "1", "0.5", "1.0", "1.5"),
    *("mistralai/Mixtral-8x7B-Instruct-v0.1", "google/gemma-7b-it", "acme/chat/v1.5", "internal", "restricted"),
    *(
        HEX * 2 + HEX[:8],
        "f" * 40,
        "*.safetensors",
        DIGEST,
        "apache-2.0",
        "gemma-terms-of-use",
        "eu-west-1",
        "us-east-1",
        "500m",
        "8",
        "64Gi",
    ),
    *("nvidia.com/gpu.product", "example.com/pool", "NVIDIA-H100-80GB-HBM3", "AMD-Instinct-MI300X", "..x", ".cache/x"),
    *("models/mixtral", "a/b.c", "s3://models", "s3://models/mixtral/v1", "https://minio.storage.svc:9000"),
    *("http://collector.telemetry.svc:4318", "https://otlp.example/base", "http://store:65535", "vllm"),
    *("http://[fd00::1]:9000", "https://[2001:db8:1:2:3:4:5:6]", "http://[::]:4318"),
    *("registry.example:5000/llm/serving:v1", f"registry.example/llm/weights@{DIGEST}", f"a.b/c:d@{DIGEST}", "0.00001"),
    *("2Gi", "16Gi"),
)
"""Every format of the API takes at least two of them."""
KEYS = ("example.com/pool", "nvidia.com/gpu.product", "zone", "a.b/c")
"""Of labels, where nothing else is said."""
POD_KEYS = (
    ("example.com/team", "sidecar.istio.io/inject", "k8s.v1.cni.cncf.io/networks", "team", "x-ray.io/a", "a.b/ray.io"),
    ("conclave.dev/model-deployment", "a.conclave.dev/b", "ray.io/node-type", "app.kubernetes.io/name"),
)
DEVICES = (
    ("rdma/hca_shared_devices_a", "vpc.amazonaws.com/efa", "openshift.io/mlxrdma", "a.b/gpus", "kubernetes.io.a/b"),
    (
        *("nvidia.com/gpu", "nvidia.com/gpu.shared", "nvidia.com/mig-1g.5gb", "a.b/Xgpu", "cpu", "hugepages-2Mi"),
        *("requests.example.com/a", "kubernetes.io/batteries", "a.kubernetes.io/b"),
    ),
)
"""Keys that pass, and keys that a rule of theirs refuses."""
ODD_CHARACTERS = (*"-._/:@ =A0é", "\n", "\t", "\x00", "\x7f", "\u2028", "\U0001f600", "..", "//", '"', "'", "\\", "%s")
_MATCHES = re.compile(r"^self\.matches\('(.*)'\)$")


def places(schema: Schema, path: Path = ()) -> Iterator[tuple[Path, Schema]]:
    """Every field of a schema by its path, in which * stands for each item of a list and each value of a map."""
    yield path, schema
    for name, field in schema.get("properties", {}).items():
        yield from places(field, (*path, name))
    for holder in ("items", "additionalProperties"):
        if holder in schema:
            yield from places(schema[holder], (*path, "*"))


def formats(schema: Schema) -> list[str]:
    """The patterns of a string's rules."""
    found = (_MATCHES.match(rule["rule"]) for rule in schema.get("x-kubernetes-validations", []))
    return [re.sub(r"\\(.)", r"\1", match[1]).removeprefix("^(").removesuffix(")$") for match in found if match]


@cache
def examples(patterns: tuple[str, ...], most: int) -> list[str]:
    """The examples that fit all patterns."""
    return [text for text in EXAMPLES if len(text) <= most and all(re.fullmatch(each, text) for each in patterns)]


class Manifests:
    """An endless row of manifests, the same for the same seed."""

    def __init__(self, seed: int):
        self._random = Random(seed)
        self._wrong = self._unreadable = 0.0
        self._focus: Path = ()
        self._places = [
            path for path, field in places(SCHEMA["properties"]["spec"], ("spec",)) if _is_leaf(path, field)
        ]

    def __iter__(self) -> Iterator[Json]:
        while True:
            yield self.manifest()

    def manifest(self, name: str | None = None) -> Json:
        """The next one; with a name, it is an update of the object of this name."""
        self._wrong, self._unreadable = self._random.choices(
            [(0.0, 0.0), (0.02, 0.0), (0.1, 0.0), (0.02, 0.02)], [40, 30, 15, 15]
        )[0]
        self._focus = self._random.choice(self._places) if self._has(0.6) else ()
        spec = self._value(("spec",), SCHEMA["properties"]["spec"])
        if isinstance(spec, dict):
            for path, mend in _MENDS:
                for found in _at(spec, path):
                    if self._has(0.9):
                        mend(found, self._random, self._focus)
        named = name or self._random.choice(["mixtral", "chat", "a" * 40])
        if name is None and self._has(self._wrong):
            named = self._random.choice(["7b", "a.b", "a" * 41, "a-b.c"])
        if self._has(0.1):  # else it were rare
            for model in _at(spec, ("model",)):
                taken = self._random.choice([named, model.get("servedName", named)])
                for adapter in _at(model, ("adapters", "*")):
                    adapter["name"] = taken
        return {"apiVersion": API_VERSION, "kind": KIND, "metadata": {"name": named}, "spec": spec}

    def _has(self, probability: float) -> bool:
        return self._random.random() < probability

    def _is_wrong(self, path: Path) -> bool:
        return self._has(0.7 if path == self._focus else self._wrong)

    def _value(self, path: Path, schema: Schema) -> Any:
        if self._has(self._unreadable / 3):
            return self._random.choice(["word", 7, 7.5, True, ["a"]])
        if schema.get("x-kubernetes-int-or-string"):
            return self._random.choice(["auto", 1, 64, 100_000] if not self._is_wrong(path) else ["many", 0, 100_001])
        if "enum" in schema:
            odd = "other" if schema["type"] == "string" else 7
            return odd if self._is_wrong(path) else self._random.choice(schema["enum"])
        by_type: dict[str, Callable[[Path, Schema], Any]] = {
            "object": self._object,
            "array": self._array,
            "string": self._string,
            "integer": self._integer,
            "boolean": lambda _path, _schema: self._has(0.5),
        }
        return by_type[schema["type"]](path, schema)

    def _object(self, path: Path, schema: Schema) -> Json:
        if path in _ALLOWLISTS:
            return self._entries(_ALLOWLISTS[path], 0.5 if path == self._focus else self._wrong)
        if "additionalProperties" in schema:
            good, wrong = _KEYS.get(path, (KEYS, ()))
            keys = self._random.sample(good, k=2)
            keys = [self._random.choice([*wrong, self._bent(key)]) if self._is_wrong(path) else key for key in keys]
            return {key: self._value((*path, "*"), schema["additionalProperties"]) for key in keys}
        required = schema.get("required", [])
        given = {
            name: self._value((*path, name), field)
            for name, field in schema["properties"].items()
            if self._is_given((*path, name), name in required)
        }
        return given | ({"elsewhere": 1} if self._has(self._unreadable / 3) else {})

    def _is_given(self, path: Path, is_required: bool) -> bool:
        if path == self._focus[: len(path)]:
            return True
        return not self._has(self._unreadable) if is_required else self._has(0.5)

    def _array(self, path: Path, schema: Schema) -> list[Any]:
        length = self._random.choice([1, 2] if path == self._focus[: len(path)] else [0, 1, 1, 2, 3])
        if self._has(self._unreadable):
            length = schema["maxItems"] + 1
        return [self._value((*path, "*"), schema["items"]) for _ in range(length)]

    def _string(self, path: Path, schema: Schema) -> str:
        text = self._random.choice(examples(tuple(formats(schema)), schema["maxLength"]))
        if self._has(self._unreadable):
            return text + "a" * (schema["maxLength"] + 1 - len(text))
        return self._bent(text) if self._is_wrong(path) else text

    def _integer(self, path: Path, schema: Schema) -> int:
        low, high = schema["minimum"], schema["maximum"]
        if self._is_wrong(path):
            return int(self._random.choice([low - 1, high + 1]))
        return int(self._random.choice([low, low + 1, low + 2, min(low + 7, high), high]))

    def _bent(self, text: str) -> str:
        """With one thing about it changed; it may still fit."""
        at = self._random.randint(0, len(text))
        odd = self._random.choice(ODD_CHARACTERS)
        bent = [
            text[:at] + odd + text[at:],
            text + odd,
            odd + text,
            text[1:],
            text.upper(),
            "",
            f"/{text}",
            f"{text}/..",
        ]
        return self._random.choice(bent)

    def _entries(self, allowlist: Allowlist, wrong: float) -> dict[str, str]:
        names = self._random.sample(list(allowlist.allowed), k=self._random.choice([0, 1, 2, 4]))
        if wrong >= 0.5:  # as often of each type, since some types have few names
            by_type = {type(setting): name for name, setting in self._shuffled(allowlist.allowed.items())}
            names = list(by_type.values())
        entries = {name: self._setting(allowlist.allowed[name], wrong) for name in names}
        if self._has(wrong):
            others = [*allowlist.owned, *allowlist.denied, "warp_speed", " seed", "--max-num-seqs=4", "SEED", "é"]
            entries[self._random.choice(others)] = "1"
        return entries

    def _shuffled(self, items: Iterable[tuple[str, Setting]]) -> list[tuple[str, Setting]]:
        return self._random.sample(list(items), k=len(list(items)))

    def _setting(self, setting: Setting, wrong: float) -> str:
        match setting:
            case Boolean(words=words):
                good, odd = words, [*{"true", "false"}.difference(words), "yes", "True", "1", ""]
            case Integer(minimum=low, maximum=high):
                good, odd = [str(low), str(high)], [str(low - 1), str(high + 1), "007", "1e3", "9" * 23, "", "8\n"]
            case Decimal(minimum=low, maximum=high):
                good = [str(low), str(high)]
                odd = [str(low / 2), str(high * 2), "NaN", "1e-1", ".5", "0.12345678"]
            case Choice(spellings=words):
                good, odd = words, ["other", words[0].upper() + "x", ""]
            case Pattern(example=example):
                good, odd = [example], [f"{example};reboot", f"{example}\n", "$(x)", ""]
        return self._random.choice(odd if self._has(wrong) else good)


_ALLOWLISTS = {
    ("spec", "engine", "extraArgs"): engine_argument_list(),
    ("spec", "engine", "env"): environment_list(),
}


_RUNTIME = ("spec", "runtime")
_KEYS = {
    (*_RUNTIME, "podLabels"): POD_KEYS,
    (*_RUNTIME, "podAnnotations"): POD_KEYS,
    (*_RUNTIME, "resources", "worker", "devices"): DEVICES,
}


def _at(value: Any, path: Path) -> Iterator[Json]:
    """The objects at a path, in which * stands for each item of a list."""
    if path and path[0] == "*":
        for item in value if isinstance(value, list) else []:
            yield from _at(item, path[1:])
    elif path:
        yield from _at(value.get(path[0]) if isinstance(value, dict) else None, path[1:])
    elif isinstance(value, dict):
        yield value


def _is_leaf(path: Path, field: Schema) -> bool:
    return path in _ALLOWLISTS or not field.keys() & {"properties", "items"}


def _one_source(source: Json, random: Random, focus: Path) -> None:
    kept = next((name for name in source if name in focus), random.choice([*source, "persistentVolumeClaim"]))
    for name in set(source) - {kept}:
        del source[name]
    source.setdefault(kept, {"claimName": "weights"})


def _cache_beside_a_download(model: Json, _random: Random, focus: Path) -> None:
    source = model.get("source")
    if isinstance(source, dict) and "cache" in focus:
        source.clear()
        source["objectStore"] = {"uri": "s3://models", "secretName": "store"}
        return
    sources = [source, *(each.get("source") for each in _at(model, ("adapters", "*")))]
    if any(isinstance(each, dict) and {"objectStore", "huggingFace"} & each.keys() for each in sources):
        model.setdefault("cache", {"size": "1Gi"})
    elif isinstance(source, dict):
        model.pop("cache", None)


def _one_revision(model: Json, random: Random, focus: Path) -> None:
    """Broken more often than chance would: few objects have both revisions."""
    source = model.get("source")
    hub = source.get("huggingFace") if isinstance(source, dict) else None
    if isinstance(hub, dict) and "revision" in hub and "revision" not in focus:
        model["revision"] = hub["revision"] if random.random() < 0.8 else "f" * 40


def _names_of_their_own(model: Json, random: Random, _focus: Path) -> None:
    if random.random() < 0.8 and isinstance(adapters := model.get("adapters"), list):
        for index, adapter in enumerate(adapters):
            if isinstance(adapter, dict) and "name" in adapter:
                adapter["name"] = f"tone-{index}"


def _tolerable(toleration: Json, random: Random, focus: Path) -> None:
    less = "tolerationSeconds" if "value" in focus else "value"
    toleration.pop(less if random.random() < 0.5 else "tolerationSeconds", None)
    if "key" not in toleration or "value" not in toleration:
        toleration["operator"] = "Exists" if "value" not in toleration else "Equal"
    if "key" not in toleration and toleration["operator"] == "Equal":
        toleration["key"] = "a"
    if "tolerationSeconds" in toleration:
        toleration["effect"] = "NoExecute"


def _small_sizes(spec: Json, _random: Random, _focus: Path) -> None:
    if isinstance(sizes := spec.get("parallelism"), dict):
        sizes.pop("pipeline", None)
        sizes["tensor"] = 1


def _data_of_one(sizes: Json, _random: Random, _focus: Path) -> None:
    sizes.pop("data", None)


def _ordered_floor(scaling: Json, _random: Random, _focus: Path) -> None:
    scaling["minReplicas"] = 1
    scaling.setdefault("maxReplicas", 2)


def _one_deadline(spec: Json, random: Random, _focus: Path) -> None:
    """Given twice more often than chance would."""
    engine, runtime = spec.get("engine"), spec.get("runtime")
    if isinstance(engine, dict) and isinstance(runtime, dict) and isinstance(engine.get("env"), dict):
        engine["env"].pop("VLLM_ENGINE_READY_TIMEOUT_S", None)
        if random.random() < 0.1:
            engine["env"]["VLLM_ENGINE_READY_TIMEOUT_S"] = "900"


def _argument_pairs(engine: Json, random: Random, _focus: Path) -> None:
    """Broken more often than chance would: few objects have both arguments of a pair."""
    if isinstance(arguments := engine.get("extraArgs"), dict) and random.random() < 0.3:
        arguments["enable_auto_tool_choice"] = random.choice(["true", "true", "false"])
        arguments["max_num_seqs"], arguments["max_num_batched_tokens"] = random.choice([("8", "64"), ("64", "8")])
        if random.random() < 0.5:
            arguments["tool_call_parser"] = "mistral"


def _draft_of_its_method(speculative: Json, random: Random, focus: Path) -> None:
    """Each method about as often, since the schema's choices alone leave most objects with a rule broken."""
    if random.random() < 0.2:
        return
    if "promptLookupMin" in focus or "promptLookupMax" in focus:
        speculative["method"] = "ngram"
    elif "draft" in focus:
        speculative["method"] = random.choice(["eagle", "eagle3"])
    if speculative.get("method") == "ngram":
        speculative["promptLookupMin"], speculative["promptLookupMax"] = random.choice([(1, 3), (3, 3), (3, 3), (5, 4)])
    else:
        speculative.pop("promptLookupMin", None)
        speculative.pop("promptLookupMax", None)
    if speculative.get("method") in ("eagle", "eagle3"):
        speculative.setdefault("draft", {"source": {"persistentVolumeClaim": {"claimName": "weights"}}})
    else:
        speculative.pop("draft", None)


def _drafts_beside_scheduling(engine: Json, random: Random, _focus: Path) -> None:
    """Broken more often than chance would."""
    if isinstance(engine.get("speculative"), dict) and random.random() < 0.1:
        engine["speculative"] = {"method": random.choice(["ngram", "mtp"]), "numSpeculativeTokens": 2}
        arguments = engine.setdefault("extraArgs", {})
        if isinstance(arguments, dict):
            arguments["async_scheduling"] = random.choice(["true", "false"])


_MENDS: tuple[tuple[Path, Callable[[Json, Random, Path], None]], ...] = (
    (("model", "source"), _one_source),
    (("model", "adapters", "*", "source"), _one_source),
    (("model",), _cache_beside_a_download),
    (("model",), _one_revision),
    (("model",), _names_of_their_own),
    (("hardware", "tolerations", "*"), _tolerable),
    (("runtime", "head", "tolerations", "*"), _tolerable),
    ((), _one_deadline),
    (("parallelism",), _data_of_one),
    ((), _small_sizes),
    (("scaling",), _ordered_floor),
    (("engine",), _argument_pairs),
    (("engine", "speculative"), _draft_of_its_method),
    (("engine", "speculative", "draft", "source"), _one_source),
    (("engine",), _drafts_beside_scheduling),
)
"""What makes most objects keep the rules that bind several fields."""
