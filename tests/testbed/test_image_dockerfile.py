"""The part of the Dockerfile language that the builder without a container engine reads, and what it refuses."""

from __future__ import annotations

import pytest
from tools.images.dockerfile import Configure, Copy, DockerfileError, Instruction, Run, parse

READ: dict[str, tuple[str, tuple[Instruction, ...]]] = {
    "a command over several lines, with a comment between them, is one": (
        "RUN a \\\n  # why\n && b \\\n && c",
        (Run("a && b && c"),),
    ),
    "a cache is no part of the command": (
        "RUN --mount=type=cache,target=/var/cache/uv \\\n    uv sync",
        (Run("uv sync", ("/var/cache/uv",)),),
    ),
    "variables of a command are the shell's": ("RUN echo $HOME", (Run("echo $HOME"),)),
    "files of the context": ("COPY a b /c/", (Copy(None, ("a", "b"), "/c/"),)),
    "files of an earlier stage": ("COPY --from=first /a /b", (Copy("first", ("/a",), "/b"),)),
    "several variables": ('ENV A=1 B="2 3"', (Configure("Env", {"A": "1", "B": "2 3"}),)),
    "a label takes the default that stands before the first stage": (
        "ARG VERSION\nLABEL v=${VERSION}",
        (Configure("Labels", {"v": "1.0"}),),
    ),
    "a user by numbers": ("USER 1000:1000", (Configure("User", "1000:1000"),)),
    "an entry point as a list": ('ENTRYPOINT ["a", "b"]', (Configure("Entrypoint", ("a", "b")),)),
}


@pytest.mark.parametrize(("text", "instructions"), READ.values(), ids=READ)
def test_instruction(text: str, instructions: tuple[Instruction, ...]) -> None:
    stages = parse(f"ARG VERSION=1.0\nFROM debian:a-slim AS first\nFROM first AS second\n{text}")
    assert stages["second"].base == "first"
    assert stages["second"].instructions == instructions


REFUSED: dict[str, tuple[str, str]] = {
    "an instruction that is not read": ("WORKDIR /x", "line 2: WORKDIR is not read here"),
    "an option of RUN that is not read": ("RUN --network=none a", "line 2: RUN --network=none; expected --mount"),
    "an option of COPY that is not read": ("COPY --chown=1 a b", r"line 2: COPY '--chown=1 a b'; expected"),
    "a later stage": ("COPY --from=later /a /b", "--from=later: no earlier stage has that name"),
    "a user by name, which runAsNonRoot would refuse": ("USER conclave", "USER 'conclave'; expected numbers"),
    "an argument that its stage does not declare": ("LABEL v=$VERSION", "which no ARG before it declares"),
    "an argument without a value": ("ARG X", "ARG X has no default"),
    "a stage without a name": ("FROM debian:a-slim", "expected `BASE AS name`"),
    "the same name twice": ("FROM first AS first", "two stages named first"),
    "an end inside of an instruction": ("RUN a \\", "line 2: the text ends inside"),
}


@pytest.mark.parametrize(("text", "message"), REFUSED.values(), ids=REFUSED)
def test_outside_of_the_part_that_is_read(text: str, message: str) -> None:
    with pytest.raises(DockerfileError, match=message):
        parse(f"FROM debian:a-slim AS first\n{text}")


def test_a_given_argument_wins_over_the_default() -> None:
    text = "ARG BASE=debian:a-slim\nFROM ${BASE} AS first"
    assert parse(text, {"BASE": "debian:b-slim"})["first"].base == "debian:b-slim"
