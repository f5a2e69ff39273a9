"""Figures: their rows of numbers, drawn as files by matplotlib and for the page by Vega-Lite."""
