"""The part that fetches weights into a cache: claim, download Job, policy, and what keeps a download."""
