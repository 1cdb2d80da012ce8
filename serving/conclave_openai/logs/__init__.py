"""Log records without what a client sent or a model answered."""
