"""One run of `fit`, `validate`, `test` or `predict`."""
