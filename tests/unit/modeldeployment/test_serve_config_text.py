"""The text of the Serve config is what PyYAML's own writer makes, whichever writer makes it."""

from __future__ import annotations

import yaml
from hypothesis import given
from hypothesis import strategies as st

from conclave.modeldeployment.serving.rayservice import serve_config_text

AWKWARD = st.text(alphabet="abc :-#'\"\n\t,{}[]&*!|>%@`é\u2028 ", max_size=200)
LEAVES = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), AWKWARD)
KEYS = st.one_of(st.from_regex(r"[A-Za-z0-9_./-]{1,120}", fullmatch=True), AWKWARD, st.text(max_size=150))
VALUES = st.recursive(
    LEAVES,
    lambda below: st.one_of(st.lists(below, max_size=4), st.dictionaries(KEYS, below, max_size=4)),
    max_leaves=15,
)


@given(st.dictionaries(KEYS, VALUES, max_size=4))
def test_it_is_letter_for_letter_that_of_the_slow_writer(config: dict[str, object]) -> None:
    assert serve_config_text(config) == yaml.safe_dump(config, sort_keys=True, width=1_000_000)
