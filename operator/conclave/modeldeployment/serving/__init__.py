"""The part that serves: RayService, pods, network policies, token, and what keeps an engine from answering."""
