"""Public figures that are neither runs nor candidates: benchmark scores, spot statistics."""

from __future__ import annotations

import json
import re

from recommender.normalise.rows import Files, Row, Tables


def coremark(files: Files) -> Tables:
    """CoreMark and a video encoding on each EC2 type: scores of the whole machine; divide by `vcpus` to compare."""
    figures: list[Row] = []
    for _, content in files:
        for instance_type, record in json.loads(content).items():
            encoding = record["ffmpeg"] or {}
            figures.append(
                {
                    "instance_type": instance_type,
                    "vcpus": record["cpu"]["threads"],
                    "coremark_iterations_s": record["coremark"]["iterations_second"],
                    "coremark_time_s": record["coremark"]["total_time_seconds"],
                    "ffmpeg_frames_s": encoding.get("fps"),
                    "memory_mib": record["memory"]["total_mb"],
                    "cpu_model": record["cpu"].get("model"),
                    "ran_at": re.sub(r"\.\d+Z$", "Z", record["ran_at"]),
                }
            )
    return {"figures": sorted(figures, key=lambda row: row["instance_type"])}


def spot_advisor(files: Files) -> Tables:
    """Saving against on-demand (percent; negative = dearer) and interruption band (0 to 4) of each spot offering."""
    figures = [
        {"region": region, "instance_type": kind, "os": system, "saving_percent": entry["s"], "band": entry["r"]}
        for _, content in files
        for region, systems in json.loads(content)["spot_advisor"].items()
        for system, kinds in systems.items()
        for kind, entry in kinds.items()
    ]
    return {"figures": sorted(figures, key=lambda row: (row["region"], row["instance_type"], row["os"]))}
