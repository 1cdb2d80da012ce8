"""The OpenAI edge: what stands between a client's socket and an engine. No Ray, no vLLM, no Kubernetes.

    connection  ->  token  ->  route  ->  body  ->  limits  ->  engine
    connections/    authori-   routes     bodies/   limits/     the ASGI application
    door            zation                          grammars/   that `Edge` wraps

`edge.py` holds this order. `conclave_serving` runs the edge inside Ray Serve.
"""
