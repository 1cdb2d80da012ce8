"""The ingress deployment: Ray Serve LLM's ingress behind the edge, for one model and its adapters.

`app.py` builds it. The edge has checked every body that arrives here. A failure that the client can act on leaves as a
RequestError; the edge answers any other failure with 500.
"""

from __future__ import annotations

import logging
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

from conclave_models.content_free_logs import guard_logs
from conclave_openai.authorization import read_token
from conclave_openai.edge import REQUEST, REQUEST_ID
from conclave_openai.errors import engine_unavailable, invalid, overloaded
from conclave_serving.engine_refusals import engine_refusal

logger = logging.getLogger("ray.serve")
"""Serve's own logger puts the request id of the response on each line. The edge inside the ingress uses it too."""

RequestModel = TypeVar("RequestModel", bound=BaseModel)


class Ingress(OpenAiIngress):
    """Answers the URLs of `conclave_openai/routes.py`: each route names one of these methods."""

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
        # Ray takes every name for a base model, because Ray loads adapters from object stores only. vLLM knows which
        # names are adapters.
        super().__init__(dict.fromkeys(self._cards, engine), model_cards=self._cards)

    async def list_models(self) -> Response:
        """GET /v1/models."""
        return JSONResponse({"object": "list", "data": list(self._cards.values())})

    async def show_model(self, model: str) -> Response:
        """GET /v1/models/{id}. The edge has compared the id with the models."""
        return JSONResponse(self._cards[model])

    async def answer_chat(self, request: Request) -> Response:
        """POST /v1/chat/completions."""
        return await self._answer(self.chat(_as_engine_request(ChatCompletionRequest, request), request))

    async def answer_completions(self, request: Request) -> Response:
        """POST /v1/completions."""
        return await self._answer(self.completions(_as_engine_request(CompletionRequest, request), request))

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


def _as_engine_request(model: type[RequestModel], request: Request) -> RequestModel:
    """The checked body as vLLM's own type, under the edge's request id.

    The edge's limits are the validation. vLLM may still refuse a combination of fields: that is answered with 400 too.
    """
    fields = {**request.scope[REQUEST], "request_id": request.scope[REQUEST_ID]}
    try:
        checked = model.model_validate(fields)
        for message in getattr(checked, "messages", ()):
            for name, value in message.items():
                if isinstance(value, Iterator):  # pydantic validates such a part only when the part is read
                    message[name] = list(value)
        return checked
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        param = str(first["loc"][0]) if first["loc"] and first["loc"][0] in fields else None
        raise invalid(f"'{param}' has an invalid value." if param else "The request is invalid.", param) from None
    except VLLMClientError as error:  # its message repeats the value
        named = str(getattr(error, "parameter", None)).partition(".")[0]
        raise engine_refusal(400, str(error), named if named in fields else None) from None
