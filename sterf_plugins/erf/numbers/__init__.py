"""Numbers that describe a map, in space and in time, with standard errors over inputs. Nothing here knows of models."""
