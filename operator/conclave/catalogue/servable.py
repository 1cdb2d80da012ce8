"""Whether a model may be served here at all: known, with weights, and its licence accepted.

The one set of refusals, with one wording, of `conclave validate`, `conclave plan` and the operator's PlanReady.
"""

from __future__ import annotations

from conclave.catalogue.models import ModelEntry, all_models, find_model, suggest_models


def check_servable(model_id: str, licence_accepted: str | None, has_config: bool) -> tuple[str, ...]:
    """The reasons why this model is refused; empty where it is not.

    `has_config` says whether the model comes with a config.json of its own, which makes an unknown id plannable; a
    family without weights stays refused all the same.
    """
    entry = find_model(model_id)
    if entry is None:
        return () if has_config else (_unknown(model_id),)
    if entry.served.by == "nobody":
        return (_never_released(model_id, entry),)
    if entry.served.by == "provider":
        return (
            f"model {model_id}: {entry.served.reason}; a ModelDeployment cannot serve this model; a ModelProvider, "
            "which a later version brings, will reach its provider",
        )
    return _licence_problems(model_id, entry, licence_accepted)


def not_yet_served(model_id: str, architecture: str | None = None) -> str | None:
    """Why the engine of this release cannot serve the model although it can be planned; None where it can.

    A fine-tune is told by its architecture.
    """
    entry = find_model(model_id) or next(
        (known for known in all_models() if architecture and known.served.engine_class == architecture), None
    )
    if entry is None or entry.served.by != "not-yet":
        return None
    return f"model {model_id}: this release plans this model and does not serve it yet: {entry.served.reason}"


def to_be_inspected(model_id: str) -> str | None:
    """How an unknown model is planned where it runs; None of a known one."""
    if find_model(model_id) is not None:
        return None
    return (
        f"model {model_id}: not in the catalogue; {_meant(model_id)}In a cluster, a Job of the operator first reads "
        "config.json beside the weights; the operator then refuses a model that cannot be served"
    )


def _unknown(model_id: str) -> str:
    return (
        f"model {model_id}: not in the catalogue, and no config.json is given; {_meant(model_id)}`conclave models` "
        "lists the known models; for another model, give its config.json with --config (in a cluster, a Job of the "
        "operator reads it beside the weights)"
    )


def _meant(model_id: str) -> str:
    suggestions = suggest_models(model_id)
    return f"did you mean {' or '.join(suggestions)}? " if suggestions else ""


def _never_released(model_id: str, entry: ModelEntry) -> str:
    alternatives = " or ".join(entry.served.instead)
    instead = f"; open multimodal models that can be served instead: {alternatives}" if alternatives else ""
    return f"model {model_id}: never released: {entry.served.reason}, so nobody can serve it{instead}"


def _licence_problems(model_id: str, entry: ModelEntry, accepted: str | None) -> tuple[str, ...]:
    terms = entry.terms
    if terms is None or (accepted is not None and terms.is_named(accepted)) or (terms.open and accepted is None):
        return ()
    if accepted is not None:
        remedy = "remove spec.model.licence" if terms.open else f"write {_yaml(terms.id)}"
        return (
            f"model {model_id}: spec.model.licence.accepted is {accepted}, but its licence is {terms.id} "
            f"({terms.title}); {remedy}",
        )
    return (
        f"model {model_id}: its licence {terms.id} ({terms.title}) was not accepted and has conditions: "
        f"{terms.obliges} ({terms.url}); to accept the licence, write {_yaml(terms.id)}",
    )


def _yaml(licence_id: str) -> str:
    return f"`licence: {{accepted: {licence_id}}}` under spec.model"
