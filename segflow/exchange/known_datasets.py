"""Public datasets that segflow knows by name: where they are, their licence, citation and layout."""

from __future__ import annotations

from dataclasses import dataclass

MSD_URL = "https://msd-for-monai.s3-us-west-2.amazonaws.com/{task}.tar"
MSD_PAGE = "http://medicaldecathlon.com"
MSD_CITATION = "Antonelli et al., The Medical Segmentation Decathlon, Nature Communications 13, 4128 (2022)"
BY_SA = "CC BY-SA 4.0"
BY = "CC BY 4.0"
TOTALSEGMENTATOR_CITATION = (
    "Wasserthal et al., TotalSegmentator: Robust Segmentation of 104 Anatomic Structures in CT Images, Radiology: "
    "Artificial Intelligence (2023)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownDataset:
    """A public dataset.

    Attributes:
        title: Its name for people.
        layout: Layout of its files: ``decathlon``, ``lits``, ``acdc``, ``amos`` or ``totalsegmentator``.
        page: Where a person gets it.
        licence: Its licence.
        citation: The paper to cite.
        url: Where segflow gets it; None if only a person can, such as after a form.
        checksum: ``md5:…`` of the file at ``url``; None if it is not known for certain.
        channel: Name of the image's channel, for layouts that do not name it.
    """

    title: str
    layout: str
    page: str
    licence: str
    citation: str
    url: str | None = None
    checksum: str | None = None
    channel: str = "CT"


def _task(name: str, md5: str) -> KnownDataset:
    return KnownDataset(
        title=f"Medical Segmentation Decathlon, {name}",
        layout="decathlon",
        page=MSD_PAGE,
        licence=BY_SA,
        citation=MSD_CITATION,
        url=MSD_URL.format(task=name),
        checksum=f"md5:{md5}",
    )


_HIPPOCAMPUS = _task("Task04_Hippocampus", "9d24dba78a72977dbd1d2e110310f31b")

KNOWN: dict[str, KnownDataset] = {
    "msd_brain_tumour": _task("Task01_BrainTumour", "240a19d752f0d9e9101544901065d872"),
    "msd_heart": _task("Task02_Heart", "06ee59366e1e5124267b774dbd654057"),
    "msd_liver": _task("Task03_Liver", "a90ec6c4aa7f6a3d087205e23d4e6397"),
    "msd_hippocampus": _HIPPOCAMPUS,
    "hippocampus": _HIPPOCAMPUS,
    "msd_prostate": _task("Task05_Prostate", "35138f08b1efaef89d7424d2bcc928db"),
    "msd_lung": _task("Task06_Lung", "8afd997733c7fc0432f71255ba4e52dc"),
    "msd_pancreas": _task("Task07_Pancreas", "4f7080cfca169fa8066d17ce6eb061e4"),
    "msd_hepatic_vessel": _task("Task08_HepaticVessel", "641d79e80ec66453921d997fbf12a29c"),
    "msd_spleen": _task("Task09_Spleen", "410d4a301da4e5b2f6f86ec3ddba524e"),
    "msd_colon": _task("Task10_Colon", "bad7a188931dc2f6acf72b08eb6202d0"),
    "lits": KnownDataset(
        title="LiTS, the Liver Tumor Segmentation Benchmark",
        layout="lits",
        page="https://competitions.codalab.org/competitions/17094",
        licence="as its page says; for research",
        citation="Bilic et al., The Liver Tumor Segmentation Benchmark, Medical Image Analysis 84, 102680 (2023)",
    ),
    "acdc": KnownDataset(
        title="ACDC, the Automated Cardiac Diagnosis Challenge",
        layout="acdc",
        page="https://www.creatis.insa-lyon.fr/Challenge/acdc/databases.html",
        licence="as its page says; for research",
        citation="Bernard et al., Deep Learning Techniques for Automatic MRI Cardiac Multi-Structures Segmentation and "
        "Diagnosis: Is the Problem Solved?, IEEE Transactions on Medical Imaging 37, 2514 (2018)",
        channel="cineMRI",
    ),
    "amos": KnownDataset(
        title="AMOS 2022, abdominal organs in CT",
        layout="amos",
        page="https://zenodo.org/records/7262581",
        licence=BY,
        citation="Ji et al., AMOS: A Large-Scale Abdominal Multi-Organ Benchmark for Versatile Medical Image "
        "Segmentation, NeurIPS Datasets and Benchmarks (2022)",
        url="https://zenodo.org/records/7262581/files/amos22.zip",
    ),
    "totalsegmentator": KnownDataset(
        title="TotalSegmentator, CT, version 2.0.1",
        layout="totalsegmentator",
        page="https://zenodo.org/records/10047292",
        licence=BY,
        citation=TOTALSEGMENTATOR_CITATION,
        url="https://zenodo.org/records/10047292/files/Totalsegmentator_dataset_v201.zip",
        checksum="md5:fe250e5718e0a3b5df4c4ea9d58a62fe",
    ),
    "totalsegmentator_mr": KnownDataset(
        title="TotalSegmentator, MR, version 2.0.0",
        layout="totalsegmentator",
        page="https://zenodo.org/records/14710732",
        licence="as its page says",
        citation="D'Antonoli et al., TotalSegmentator MRI: Robust Sequence-independent Segmentation of Multiple "
        "Anatomic Structures in MRI, Radiology (2025)",
        url="https://zenodo.org/records/14710732/files/TotalsegmentatorMRI_dataset_v200.zip",
        channel="MR",
    ),
}
"""Name → dataset. Options of ``dataset=`` name them."""
