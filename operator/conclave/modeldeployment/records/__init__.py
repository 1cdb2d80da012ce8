"""The operator's earlier decisions in ControllerRevisions: writing, reading, and checks against forgery."""
