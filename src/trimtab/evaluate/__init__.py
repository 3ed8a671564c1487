"""Comparisons: models and engines timed, sized and scored on the same ground."""
