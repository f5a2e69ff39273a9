"""Figures: their data as rows, drawn to files by matplotlib and on the page by Vega-Lite."""
