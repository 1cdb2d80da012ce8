"""What was decided before, kept in ControllerRevisions: written, read, and held against forgery."""
