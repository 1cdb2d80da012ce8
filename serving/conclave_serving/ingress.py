"""The ingress deployment: Ray Serve LLM's, behind the edge, for one model and its adapters.

`app.py` builds it. Bodies arrive checked by `edge.py`; every failure leaves as a RequestError or is raised.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Collection, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ValidationError
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.llm.ingress import OpenAiIngress
from ray.serve.llm.openai_api_models import ChatCompletionRequest, CompletionRequest
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from vllm.exceptions import VLLMClientError

from conclave_serving.authorization import read_token
from conclave_serving.content_free_logs import guard_logs
from conclave_serving.edge import REQUEST, REQUEST_ID
from conclave_serving.errors import engine_refusal, engine_unavailable, invalid, overloaded

RequestModel = TypeVar("RequestModel", bound=BaseModel)


class Ingress(OpenAiIngress):
    """Answers the four URLs of `routes.py`."""

    def __init__(
        self,
        llm_deployments: dict[str, Any],
        *,
        adapters: Collection[str],
        token_path: str,
        max_model_len: int,
        retry_after_s: int,
    ) -> None:
        guard_logs()
        read_token(Path(token_path))
        ((base, engine),) = llm_deployments.items()
        self._retry_after_s = retry_after_s
        card = {"object": "model", "created": int(time.time()), "owned_by": "conclave", "max_model_len": max_model_len}
        self._cards: dict[str, Any] = {base: {"id": base, **card}}
        self._cards |= {adapter: {"id": adapter, **card, "parent": base} for adapter in adapters}
        # To Ray every name is a base model, since its own adapters come from object stores; vLLM tells them apart.
        super().__init__(dict.fromkeys(self._cards, engine), model_cards=self._cards)

    async def list_models(self) -> Response:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": list(self._cards.values())})

    async def show_model(self, model: str) -> Response:
        """GET /v1/models/{id}; the edge has compared the id."""
        return JSONResponse(self._cards[model])

    async def answer_chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self._answer(self.chat(_validated(ChatCompletionRequest, request), request))

    async def answer_completions(self, request: Request) -> Response:
        """POST /v1/completions."""
        return await self._answer(self.completions(_validated(CompletionRequest, request), request))

    async def _answer(self, response: Awaitable[Any]) -> Response:
        try:
            return cast(Response, await response)
        except BackPressureError:
            raise overloaded(self._retry_after_s) from None
        except (DeploymentUnavailableError, RayActorError) as error:
            raise engine_unavailable(self._retry_after_s) from error
        except Exception as error:
            status = getattr(error, "status_code", None)  # Ray LLM's OpenAIHTTPException is not public
            if isinstance(status, int) and 400 <= status < 500:
                raise engine_refusal(status, str(getattr(error, "message", ""))) from None
            raise


def _validated(model: type[RequestModel], request: Request) -> RequestModel:
    """The checked body as vLLM's own type, with our request id: the engine must not take the client's."""
    fields = {**request.scope[REQUEST], "request_id": request.scope[REQUEST_ID]}
    try:
        checked = model.model_validate(fields)
        for message in getattr(checked, "messages", ()):
            for name, value in message.items():
                if isinstance(value, Iterator):  # pydantic validates such a part only when it is read
                    message[name] = list(value)
        return checked
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        param = str(first["loc"][0]) if first["loc"] and first["loc"][0] in fields else None
        raise invalid(f"'{param}' has an invalid value." if param else "The request is invalid.", param) from None
    except VLLMClientError as error:  # its message repeats the value
        named = str(getattr(error, "parameter", None)).partition(".")[0]
        raise engine_refusal(400, str(error), named if named in fields else None) from None
