"""Reads run folders and shows them: one self-contained HTML page, and the stage table for terminals."""

from ponderosa.report.page import write_report

__all__ = ["write_report"]
