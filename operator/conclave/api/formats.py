"""The strings of the API, with their longest lengths and their spellings."""

from __future__ import annotations

from functools import partial
from typing import Annotated, Any, Literal, get_args

from pydantic import Field, GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema

from conclave.api.rules import Checked, Fact, Format, Message, Rule, require

DNS_1035 = Format(
    "[a-z]([-a-z0-9]{0,38}[a-z0-9])?",
    "a DNS-1035 label of at most 40 characters: lower-case letters, digits and dashes, "
    "beginning with a letter and ending with a letter or digit",
)
_DNS_1123_LABEL = "[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?"
LABEL_NAME = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?"
DNS_1123_SUBDOMAIN = rf"{_DNS_1123_LABEL}(\.{_DNS_1123_LABEL})*"
_SEGMENT = "[.]{0,2}[A-Za-z0-9_+=@-][A-Za-z0-9._+=@-]*"
_HUB_NAME = "[A-Za-z0-9][A-Za-z0-9._-]*"
_HEX = "[0-9a-f]{1,4}"
_IPV6 = "|".join(
    (
        f"({_HEX}:){{7}}{_HEX}",
        f"({_HEX}:){{1,7}}:",
        *(f"({_HEX}:){{1,{7 - after}}}(:{_HEX}){{1,{after}}}" for after in range(1, 7)),
        f":(:{_HEX}){{1,7}}",
        "::",
    )
)
"""Of hex digits only, without a zone."""
_HOST = rf"({DNS_1123_SUBDOMAIN}|\[({_IPV6})\])"
_PORT = "6553[0-5]|655[0-2][0-9]|65[0-4][0-9]{2}|6[0-4][0-9]{3}|[1-5][0-9]{4}|[1-9][0-9]{0,3}"
_REPOSITORY_NAME = r"[A-Za-z0-9_]+((-(\.-)*\.?|\.(-\.)*-?)[A-Za-z0-9_]+)*"
"""As the hub takes them: neither `--` nor `..`, and no dash or dot at the ends."""
_REPOSITORY = r"[a-z0-9][a-zA-Z0-9.-]*(:[0-9]{1,5})?(/[a-z0-9][a-z0-9._-]*)*"
_HUB_ENDPOINT = rf"https?://{_HOST}(:({_PORT}))?(/{_SEGMENT})*"
_IMAGE = rf"{_REPOSITORY}(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?"

Dns1035Name = Annotated[str, DNS_1035]
DnsName = Annotated[
    str,
    Field(max_length=253),
    Format(rf"{_DNS_1123_LABEL}(\.{_DNS_1123_LABEL})*", "the name of a Kubernetes object (a DNS-1123 subdomain)"),
]
NamespaceName = Annotated[
    str, Field(max_length=63), Format(_DNS_1123_LABEL, "the name of a namespace (a DNS-1123 label)")
]
RelativePath = Annotated[
    str,
    Field(max_length=512),
    Format(
        f"({_SEGMENT}(/{_SEGMENT})*)?",
        "a relative path below the volume's root: names of letters, digits and ._+=@- joined by single slashes, "
        "without a leading slash and without '..'",
    ),
]
ObjectStoreUri = Annotated[
    str,
    Field(max_length=512),
    Format(
        rf"s3://[a-z0-9][a-z0-9.-]{{1,61}}[a-z0-9](/{_SEGMENT})*/?",
        "an object store's address: s3://bucket/path, names of letters, digits and ._+=@- joined by single slashes",
    ),
]
StoreEndpoint = Annotated[
    str,
    Field(max_length=256),
    Format(
        rf"https?://{_HOST}(:({_PORT}))?",
        "the base URL of an object store: http:// or https://, a host in lower case (an IPv6 address in brackets) and "
        "where needed a port, without a path, such as https://minio.storage.svc:9000",
    ),
]
RegionName = Annotated[
    str,
    Field(max_length=32),
    Format("[a-z0-9]([-a-z0-9]*[a-z0-9])?", "a region: lower-case letters, digits and dashes, such as eu-west-1"),
]
HubRepository = Annotated[
    str,
    Field(max_length=193),
    Format(
        f"{_REPOSITORY_NAME}(/{_REPOSITORY_NAME})?",
        "a repository of a hub: ORGANISATION/NAME, letters, digits and ._- without -- or .., such as Qwen/Qwen3-8B",
    ),
]
HubEndpoint = Annotated[
    str,
    Field(max_length=256),
    Format(
        _HUB_ENDPOINT,
        "the base URL of a hub: http:// or https://, a host in lower case, and where needed a port and a path, without "
        "a slash at the end, such as https://hub.example/mirror",
    ),
]
HUB_ENDPOINT_PATTERN = Format(rf"\*|{_HUB_ENDPOINT}", "* for every hub, or a hub's base URL without a slash at the end")
HubEndpointPattern = Annotated[str, Field(max_length=256), HUB_ENDPOINT_PATTERN]
FilePattern = Annotated[
    str,
    Field(max_length=128),
    Format(
        r"[A-Za-z0-9._+=@*?!\[\]][A-Za-z0-9._+=@*?!\[\]/-]*",
        "a pattern of file names: letters, digits and ._+=@-/ with the wildcards * ? [...], such as *.safetensors",
    ),
]
CommitHash = Annotated[
    str, Field(max_length=64), Format("[0-9a-f]{40}", "a commit: 40 hex digits (0-9a-f) are needed, no branch or tag")
]
Sha256Digest = Annotated[
    str, Field(max_length=128), Format("sha256:[0-9a-f]{64}", "a digest: sha256: and 64 hex digits (0-9a-f) are needed")
]
LabelValue = Annotated[
    str,
    Field(max_length=63),
    Format(f"({LABEL_NAME})?", "a label value: letters, digits and -_. between letters or digits"),
]
LABEL_KEY = Format(
    rf"({DNS_1123_SUBDOMAIN}/)?{LABEL_NAME}",
    "a label key: an optional DNS prefix and a slash, then letters, digits and -_. between letters or digits",
)
LabelKey = Annotated[str, Field(max_length=317), LABEL_KEY]
NodeSelector = Annotated[dict[str, LabelValue], Field(max_length=16), Checked((LABEL_KEY.keys_rule(),))]
AcceleratorName = Annotated[
    str,
    Field(max_length=63),
    Format(LABEL_NAME, "an accelerator's product name as the node label spells it, such as NVIDIA-H100-80GB-HBM3"),
]
Quantity = Annotated[
    str,
    Field(max_length=16),
    Format(
        r"[0-9]{1,9}(\.[0-9]{1,3})?(m|k|M|G|T|Ki|Mi|Gi|Ti)?",
        "a quantity such as 500m, 8 or 64Gi (no sign, no exponent)",
    ),
]
ModelId = Annotated[
    str,
    Field(max_length=96),
    Format(f"{_HUB_NAME}(/{_HUB_NAME})?", "a model id such as mistralai/Mixtral-8x7B-Instruct-v0.1"),
]
ServedName = Annotated[
    str,
    Field(max_length=96),
    Format(f"{_HUB_NAME}(/{_HUB_NAME})*", "a model name: letters, digits and ._- in parts joined by single slashes"),
]
LicenceId = Annotated[
    str,
    Field(max_length=64),
    Format("[a-z0-9]([-a-z0-9.]*[a-z0-9])?", "a licence id as `conclave models show` prints it"),
]
DataClassName = Annotated[
    str,
    Field(max_length=40),
    Format("[a-z]([-a-z0-9]*[a-z0-9])?", "a data class: lower-case letters, digits and dashes, such as confidential"),
]
ImageReference = Annotated[
    str, Field(max_length=512), Format(f"{_IMAGE}(@sha256:[0-9a-f]{{64}})?", "an image reference")
]
ImagePattern = Annotated[
    str,
    Field(max_length=512),
    Format(
        rf"{_REPOSITORY}(:\*|@sha256:\*)|{_IMAGE}(@sha256:[0-9a-f]{{64}})?",
        "an image reference, or registry/repository:* (any tag) or registry/repository@sha256:* (any digest)",
    ),
]
ServiceAccountPattern = Annotated[
    str,
    Field(max_length=317),
    Format(
        rf"({_DNS_1123_LABEL}/)?{_DNS_1123_LABEL}(\.{_DNS_1123_LABEL})*",
        "a service account: its name, of any namespace, or NAMESPACE/NAME",
    ),
]
TraceEndpoint = Annotated[
    str,
    Field(max_length=256),
    Format(
        rf"https?://{_HOST}(:({_PORT}))?(/[A-Za-z0-9._~-]+)*/?",
        "the base URL of an OTLP/HTTP collector: http:// or https://, a host in lower case (an IPv6 address in "
        "brackets), where needed a port and a path, without user, query or fragment, such as "
        "http://collector.telemetry.svc:4318",
    ),
]
PROXY = Format(
    rf"(https?://{_HOST}(:({_PORT}))?/?)?",
    "the URL of a proxy: http:// or https://, a host in lower case (an IPv6 address in brackets) and where needed a "
    "port, without user, password and path, such as http://proxy.example:3128",
)
ProxyUrl = Annotated[
    str,
    Field(max_length=256),
    Checked((Rule(PROXY.expression(), PROXY.matches, Message(f"the value is not {PROXY.allowed}")),)),
]
"""Empty: none. A password would stand in the Job, for all to read who may read Jobs; the message does not repeat it."""
SamplingRatio = Annotated[
    str,
    Field(max_length=10),
    Format(r"0(\.[0-9]{1,8})?|1(\.0{1,8})?", "a decimal number from 0 to 1 in a string, such as '0.05'"),
]
PinnedImageReference = Annotated[
    str,
    Field(max_length=512),
    Format(
        f"{_IMAGE}@sha256:[0-9a-f]{{64}}",
        "an image reference pinned by digest: registry/repository@sha256: and 64 hex digits",
    ),
]


NEITHER_INTEGER_NOR_STRING = "int_or_string_type"
"""Type of the error for a value on which no rule is evaluated, as the API server evaluates none."""


class _IntegerOrAuto:
    """A whole number from 1 to 100000, or `auto`. A wrong number or word has one message; a union would give two."""

    rules = (
        Rule(
            "type(self) == int ? (self >= 1 && self <= 100000) : self == 'auto'",
            lambda value: (
                value == "auto" or (isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= 100_000)
            ),
            Message("targetConcurrency must be auto or a whole number from 1 to 100000"),
        ),
    )

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(self._checked)

    def _checked(self, value: Any) -> Any:
        is_number = isinstance(value, int) or (isinstance(value, float) and value.is_integer())
        if isinstance(value, bool) or not (is_number or isinstance(value, str)):
            raise PydanticCustomError(NEITHER_INTEGER_NOR_STRING, "a whole number or a word is needed")
        return require(self.rules, value)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {
            "x-kubernetes-int-or-string": True,
            "x-kubernetes-validations": [rule.cel() for rule in self.rules],
        }


class OwnNames:
    """A list whose entries must have different names. Used as metadata of an annotated tuple. The API server treats the
    list as a map with `name` as its key."""

    @property
    def rules(self) -> tuple[Fact, ...]:
        """The only rule of the list. The API server knows it from the list type, not as CEL."""
        return (self,)

    def violations(self, value: Any) -> list[str]:
        """One sentence for each name that more than one entry has."""
        names = [entry.name for entry in value]
        return [f'Duplicate value: {{"name":"{name}"}}' for name in sorted(set(names)) if names.count(name) > 1]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(partial(require, self.rules), handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(schema) | {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}


class _NoBoolean:
    """Metadata of a Literal of whole numbers, for which pydantic takes `true` as 1. The API server does not."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        choices = {"expected": ", ".join(map(str, get_args(source)))}
        return core_schema.no_info_before_validator_function(partial(self._number, choices), handler(source))

    @staticmethod
    def _number(choices: dict[str, Any], value: Any) -> Any:
        if isinstance(value, bool):
            raise PydanticKnownError("literal_error", choices)
        return value


AdapterRank = Annotated[Literal[1, 8, 16, 32, 64, 128, 256, 320, 512], _NoBoolean()]
TargetConcurrency = Annotated[int | Literal["auto"], _IntegerOrAuto()]
