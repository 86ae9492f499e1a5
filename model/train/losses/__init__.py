"""The terms of OMGSR's objective, one module each."""
