"""What the paper prints in its tables 2 to 5, by page: one table, so that nothing else quotes a figure.

Liu et al., "Polarized Self-Attention", arXiv 2107.00782. Its pose tables take the counts of HRNet's tool, where a G is
2^30 multiply-adds; its table 3 continues that of VainF's DeepLabV3+, where it is 10^9.

How far the figures can be trusted: every pose row with PSA looks like an evaluation with annotated boxes (AP50 is 93.6
in all of them, and AR is 2.3 to 2.5 above AP, against 4.7 to 5.4 in the baselines, whose boxes are detected ones);
table 4 says test-dev over baselines of val; the 85.4 of table 5 is a score on the test set.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["PUBLISHED", "Published", "published_row"]

GIB = 2**30
POSE = ("AP", "AP50", "AP75", "APM", "APL", "AR")
CITY = ("mIoU", "iIoU_class", "IoU_category", "iIoU_category")
UDP_BASELINE = (
    "UDP prints 63.8M for its baseline, 0.2M above the 63.6M of the same HRNet-W48; the 34 further maps of its offsets "
    "are 0.002M"
)
UDP_PSA = f"{UDP_BASELINE}, and the rows with PSA, which build on it, differ by as much"


@dataclass(frozen=True)
class Published:
    """One row of a table as it is printed.

    Args:
        table: its number.
        row: what it says in front.
        figures: metric -> value, in percent.
        params: parameters in millions as printed, such as "34.0"; empty where none are.
        macs: multiply-adds in G as printed.
        giga: what a G is there.
        differs: why our count cannot be the printed one; empty where it is.
    """

    table: int
    row: str
    figures: dict[str, float] = field(default_factory=dict)
    params: str = ""
    macs: str = ""
    giga: int = 10**9
    differs: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON: params and macs as plain numbers, null where none are printed, beside the words of the table."""
        return {
            "table": self.table,
            "row": self.row,
            "params": round(float(self.params) * 1e6) if self.params else None,
            "macs": round(float(self.macs) * self.giga) if self.macs else None,
            "params_printed": f"{self.params}M" if self.params else None,
            "macs_printed": f"{self.macs}G" if self.macs else None,
            "macs_per_giga": self.giga,
            "figures": self.figures,
            "differs": self.differs or None,
        }

    def has_params(self, params: int) -> bool:
        """Whether a count is the printed one to its last digit."""
        digits = len(self.params.partition(".")[2])
        return f"{params / 1e6:.{digits}f}" == self.params


def pose(table: int, row: str, figures: tuple[float, ...], macs: str, params: str, differs: str = "") -> Published:
    """A row of table 2 or 4."""
    return Published(table, row, dict(zip(POSE, figures, strict=True)), params, macs, GIB, differs)


def voc(row: str, miou: float, macs: str, params: str, differs: str = "") -> Published:
    """A row of table 3."""
    return Published(3, row, {"mIoU": miou}, params, macs, differs=differs)


PUBLISHED: dict[str, Published] = {
    "paper/coco/simplebaseline_resnet50_none": pose(
        2, "SimpleBaseline R50", (72.2, 89.3, 78.9, 68.1, 79.7, 77.6), "20.0", "34.0"
    ),
    "paper/coco/simplebaseline_resnet50_psa_s_released": pose(
        2, "SimpleBaseline R50 + PSA", (76.5, 93.6, 83.6, 73.2, 81.0, 79.0), "20.9", "36.1"
    ),
    "paper/coco/simplebaseline_resnet152_none": pose(
        2, "SimpleBaseline R152", (74.3, 89.6, 81.1, 70.5, 81.6, 79.7), "35.3", "68.6"
    ),
    "paper/coco/simplebaseline_resnet152_psa_p_released": pose(
        2, "SimpleBaseline R152 + PSA", (78.0, 93.6, 84.8, 75.2, 82.3, 80.5), "37.5", "75.2"
    ),
    "paper/coco/hrnet_w32_none": pose(2, "HRNet-W32", (75.8, 90.6, 82.5, 72.0, 82.7, 80.9), "16.0", "28.5"),
    "paper/coco/hrnet_w32_psa_p_released": pose(
        2, "HRNet-W32 + PSA", (78.7, 93.6, 85.9, 75.6, 83.5, 81.1), "17.1", "31.4"
    ),
    "paper/coco/hrnet_w48_none": pose(2, "HRNet-W48", (76.3, 90.8, 82.9, 72.3, 83.4, 81.2), "32.9", "63.6"),
    "paper/coco/hrnet_w48_psa_p_released": pose(
        2, "HRNet-W48 + PSA", (78.9, 93.6, 85.7, 75.8, 83.8, 81.4), "35.2", "70.0"
    ),
    "paper/coco/udp_hrnet_w48_none": pose(
        4, "UDP HRNet-W48, strong baseline, 384x288", (77.8, 92.0, 84.3, 74.2, 84.5, 82.5), "33.0", "63.8", UDP_BASELINE
    ),
    "paper/coco/udp_hrnet_w48_256x192_psa_p_released": pose(
        4, "UDP-Pose-PSA(p), 256x192", (78.9, 93.6, 85.8, 76.1, 83.6, 81.4), "15.7", "70.1", UDP_PSA
    ),
    "paper/coco/udp_hrnet_w48_psa_p_released": pose(
        4, "UDP-Pose-PSA(p), 384x288", (79.5, 93.6, 85.9, 76.3, 84.3, 81.9), "35.4", "70.1", UDP_PSA
    ),
    "paper/coco/udp_hrnet_w48_psa_s_released": pose(
        4, "UDP-Pose-PSA(s), 384x288", (79.4, 93.6, 85.8, 76.1, 84.1, 81.7), "35.4", "69.1", UDP_PSA
    ),
    "paper/voc/deeplabv3plus_mobilenetv2_none": voc(
        "DeepLabV3+ MobileNet",
        71.1,
        "16.9",
        "5.22",
        "5.226M are counted, which the table seems to cut off, not to round",
    ),
    "paper/voc/deeplabv3plus_mobilenetv2_psa_p_released": voc(
        "DeepLabV3+ MobileNet + PSA",
        73.7,
        "17.1",
        "5.22",
        "no placement is published for MobileNet; +0.00M cannot be had in every block",
    ),
    "paper/voc/deeplabv3plus_resnet50_none": voc("DeepLabV3+ R50", 77.2, "62.5", "39.8"),
    "paper/voc/deeplabv3plus_resnet50_psa_p_released": voc("DeepLabV3+ R50 + PSA", 79.0, "65.2", "42.3"),
    "paper/voc/deeplabv3plus_resnet101_none": voc("DeepLabV3+ R101", 78.3, "83.2", "58.8"),
    "paper/voc/deeplabv3plus_resnet101_psa_p_released": voc("DeepLabV3+ R101 + PSA", 80.3, "87.7", "63.5"),
    "paper/cityscapes/hrnetv2_w48_ocr_none": Published(5, "HRNetV2-OCR (MA), strong baseline", {"mIoU": 85.4}),
    "paper/cityscapes/hrnetv2_w48_ocr_psa_p_released": Published(
        5, "HRNetV2-OCR (MA) + PSA(p)", dict(zip(CITY, (86.95, 71.6, 92.8, 85.0), strict=True))
    ),
    "paper/cityscapes/hrnetv2_w48_ocr_psa_s_released": Published(
        5, "HRNetV2-OCR (MA) + PSA(s)", dict(zip(CITY, (86.72, 71.3, 92.3, 82.8), strict=True))
    ),
}
"""The last two folders and the name of a page below configs/ -> the row that it reproduces."""


def published_row(page: Path) -> Published | None:
    """The row that a page reproduces; None for a page of our own."""
    return PUBLISHED.get("/".join(page.resolve().with_suffix("").parts[-3:]))
