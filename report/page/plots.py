"""The plots of quality against cost."""

from report.evidence.comparison import Evidence
from report.evidence.points import Axis, cloud
from report.page.charts import WIDE, Frame, draw_cloud


def overall(evidence: Evidence, shown_axes: list[Axis]) -> dict:
    board, tasks = evidence.board, evidence.board.main_tasks()
    drawn = clouds(evidence, tasks, shown_axes, WIDE)
    titles = ", ".join(map(board.task_title, tasks))
    caption = f"Mean of {titles}, for the methods that have them all." if len(tasks) > 1 else f"{titles}."
    families = {family for picture in drawn for family in picture["families"]}
    return {"clouds": drawn, "caption": caption, "families": sorted(families, key=lambda family: family.number)}


def clouds(evidence: Evidence, tasks: list[str], shown_axes: list[Axis], frame: Frame) -> list[dict]:
    """Return the same plot against every axis; the page shows the one that is chosen."""
    drawn = [draw_cloud(cloud(evidence, tasks, axis), frame) for axis in shown_axes]
    return [picture for picture in drawn if picture]
