"""Grammars of structured output: their bounds, their estimated cost, and trials in a process of their own."""
