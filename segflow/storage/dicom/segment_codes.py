"""Codes that say in DICOM what a segment is: SNOMED CT's for common organs, and those that a user writes.

A user's codes are JSON with the names of dcmqi and 3D Slicer, in dataset.json's ``segment_codes`` or a file of its own.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from segflow.core.errors import SegflowError
from segflow.core.labels import Labels
from segflow.core.names import shortened
from segflow.core.wording import some

KEY = "segment_codes"
"""Key of dataset.json: name of a label → its codes."""
SNOMED = "SCT"
CATEGORY, TYPE, MODIFIER = (
    "SegmentedPropertyCategoryCodeSequence",
    "SegmentedPropertyTypeCodeSequence",
    "SegmentedPropertyTypeModifierCodeSequence",
)
PARTS = {"CodeValue": 16, "CodingSchemeDesignator": 16, "CodeMeaning": 64}
"""Parts of a code → the most characters that DICOM allows."""


@dataclass(frozen=True, slots=True)
class Code:
    """A term of a coding scheme, such as 10200004 of SNOMED CT (``SCT``), which means liver."""

    value: str
    scheme: str
    meaning: str


@dataclass(frozen=True, slots=True)
class Segment:
    """A segment to write.

    Attributes:
        name: Name of its label.
        values: Values of the label map that belong to it.
        category, type: What it is, in DICOM's terms.
        modifier: Such as left or right.
    """

    name: str
    values: tuple[int, ...]
    category: Code
    type: Code
    modifier: Code | None = None


ANATOMY = Code("91723000", SNOMED, "Anatomical Structure")
ABNORMAL = Code("49755003", SNOMED, "Morphologically Abnormal Structure")
TISSUE = Code("85756007", SNOMED, "Tissue")
SIDES = {"left": Code("7771000", SNOMED, "Left"), "right": Code("24028007", SNOMED, "Right")}

COMMON: dict[Code, dict[str, tuple[str, str]]] = {
    ANATOMY: {
        "adrenal gland": ("23451007", "Adrenal gland"),
        "amygdala": ("4958002", "Amygdala"),
        "aorta": ("15825003", "Aorta"),
        "bladder": ("89837001", "Bladder"),
        "brain": ("12738006", "Brain"),
        "brainstem": ("119238007", "Brain Stem"),
        "caudate nucleus": ("11000004", "Caudate Nucleus"),
        "cerebellum": ("113305005", "Cerebellum"),
        "clavicle": ("51299004", "Clavicle"),
        "colon": ("71854001", "Colon"),
        "duodenum": ("38848004", "Duodenum"),
        "esophagus": ("32849002", "Esophagus"),
        "eye": ("81745001", "Eye"),
        "femur": ("71341001", "Femur"),
        "gallbladder": ("28231008", "Gallbladder"),
        "globus pallidus": ("14738005", "Globus pallidus"),
        "heart": ("80891009", "Heart"),
        "hip": ("29836001", "Hip"),
        "hippocampus": ("5366008", "Hippocampus"),
        "humerus": ("85050009", "Humerus"),
        "inferior vena cava": ("64131007", "Inferior vena cava"),
        "kidney": ("64033007", "Kidney"),
        "left atrium": ("82471001", "Left atrium"),
        "left ventricle": ("87878005", "Left ventricle"),
        "lens": ("78076003", "Lens"),
        "liver": ("10200004", "Liver"),
        "lower lobe of lung": ("90572001", "Lower lobe of lung"),
        "lung": ("39607008", "Lung"),
        "lymph node": ("59441001", "Lymph Node"),
        "mandible": ("91609006", "Mandible"),
        "myocardium of left ventricle": ("49848007", "Left ventricle myocardium"),
        "optic nerve": ("18234004", "Optic nerve"),
        "ovary": ("15497006", "Ovary"),
        "pancreas": ("15776009", "Pancreas"),
        "parotid gland": ("45289007", "Parotid gland"),
        "peripheral zone of prostate": ("279706003", "Peripheral zone of the prostate"),
        "portal vein": ("32764006", "Portal vein"),
        "prostate": ("41216001", "Prostate"),
        "pulmonary artery": ("81040000", "Pulmonary artery"),
        "putamen": ("89278009", "Putamen"),
        "rectum": ("34402009", "Rectum"),
        "rib": ("113197003", "Rib"),
        "right atrium": ("73829009", "Right atrium"),
        "right ventricle": ("53085002", "Right ventricle"),
        "sacrum": ("54735007", "Sacrum"),
        "scapula": ("79601000", "Scapula"),
        "seminal vesicle": ("64739004", "Seminal Vesicle"),
        "skull": ("89546000", "Skull"),
        "small intestine": ("30315005", "Small intestine"),
        "spinal cord": ("2748008", "Spinal cord"),
        "spine": ("421060004", "Spine"),
        "spleen": ("78961009", "Spleen"),
        "sternum": ("56873002", "Sternum"),
        "stomach": ("69695003", "Stomach"),
        "submandibular gland": ("54019009", "Submandibular gland"),
        "testis": ("40689003", "Testis"),
        "thalamus": ("42695009", "Thalamus"),
        "thyroid gland": ("69748006", "Thyroid"),
        "trachea": ("44567001", "Trachea"),
        "upper lobe of lung": ("45653009", "Upper lobe of lung"),
        "uterus": ("35039007", "Uterus"),
        "vertebra": ("51282000", "Vertebra"),
        **{
            f"vertebra {name}": (value, f"{name} vertebra")
            for name, value in {
                **{"C1": "14806007", "C2": "39976000", "C3": "113205007", "C4": "5329002", "C5": "36978003"},
                **{"C6": "36054005", "C7": "87391001", "L1": "66794005", "L2": "14293000", "L3": "36470004"},
                **{"L4": "11994002", "L5": "49668003"},
            }.items()
        },
    },
    ABNORMAL: {
        "cyst": ("367643001", "Cyst"),
        "edema": ("79654002", "Edema"),
        "hemorrhage": ("50960005", "Hemorrhage"),
        "lesion": ("52988006", "Lesion"),
        "mass": ("4147007", "Mass"),
        "necrosis": ("6574001", "Necrosis"),
        "neoplasm": ("108369006", "Neoplasm"),
        "nodule": ("27925004", "Nodule"),
    },
    TISSUE: {
        "artery": ("51114001", "Artery"),
        "blood vessel": ("59820001", "Blood Vessel"),
        "bone": ("272673000", "Bone"),
        "cartilage": ("309312004", "Cartilage"),
        "cerebrospinal fluid": ("65216001", "Cerebrospinal Fluid"),
        "fat": ("256674009", "Fat"),
        "gray matter": ("389081007", "Gray Matter"),
        "muscle": ("71616004", "Muscle"),
        "skin": ("39937001", "Skin"),
        "vein": ("29092000", "Vein"),
        "white matter": ("389080008", "White Matter"),
    },
}
"""Category → name in lower case → value and meaning in SNOMED CT."""

SAME = {
    **{"tumor": "neoplasm", "tumour": "neoplasm", "cancer": "neoplasm", "gtv": "neoplasm"},
    **{"oesophagus": "esophagus", "oedema": "edema", "haemorrhage": "hemorrhage", "grey matter": "gray matter"},
    **{
        "urinary bladder": "bladder",
        "small bowel": "small intestine",
        "brain stem": "brainstem",
        "postcava": "inferior vena cava",
    },
    **{"atrium left": "left atrium", "atrium right": "right atrium", "lv": "left ventricle", "rv": "right ventricle"},
    **{
        "ventricle left": "left ventricle",
        "ventricle right": "right ventricle",
        "la": "left atrium",
        "ra": "right atrium",
    },
    **{"lvc": "left ventricle", "mlv": "myocardium of left ventricle", "myocardium": "myocardium of left ventricle"},
    **{
        "myo": "myocardium of left ventricle",
        "thyroid": "thyroid gland",
        "ivc": "inferior vena cava",
        "vessel": "blood vessel",
    },
    **{"lung upper lobe": "upper lobe of lung", "lung lower lobe": "lower lobe of lung", "csf": "cerebrospinal fluid"},
    **{
        "peripheral zone": "peripheral zone of prostate",
        "pz": "peripheral zone of prostate",
        "caudate": "caudate nucleus",
    },
    **{"pallidum": "globus pallidus", "eyeball": "eye"},
}
"""Other names of the same."""


def segments_of(labels: Labels, own: Mapping[str, Any] | None = None) -> tuple[Segment, ...]:
    """The segments of a label definition, in its order. A region is a segment that may overlap others.

    Args:
        labels: The label definition.
        own: Name → codes of the user's; see `KEY`. They replace the table's.

    Raises:
        SegflowError: Some labels have no code, or the user's cannot be used. The error says what to write.
    """
    own = {} if own is None else own
    if not isinstance(own, Mapping):
        raise SegflowError(
            f"'{KEY}' must map names of labels to their codes", found=shortened(own), expected=_example()
        )
    segments: list[Segment] = []
    unknown: list[str] = []
    for name, key in labels.entries.items():
        if name == "ignore" or key in (0, (0,)):
            continue
        codes = _own_codes(name, own[name]) if name in own else common_codes(name)
        if codes is None:
            unknown.append(name)
        else:
            segments.append(Segment(name, (key,) if isinstance(key, int) else key, *codes))
    if unknown:
        raise SegflowError(
            "DICOM-SEG needs a code for each label, and the table has none for some",
            found=some(unknown),
            fix=f"Write them to a JSON file and give it as segment_codes=FILE, or write them under '{KEY}' "
            f"into dataset.json before training: {_example(unknown[0])}",
        )
    if not segments:
        raise SegflowError("there is no label to write")
    return tuple(segments)


def overlapping(segments: Sequence[Segment]) -> bool:
    """Whether segments share values of the label map."""
    values = [value for segment in segments for value in segment.values]
    return len(set(values)) < len(values)


def common_codes(name: str) -> tuple[Code, Code, Code | None] | None:
    """Category, type and side of a common structure by its name, such as ``kidney_left``; None if it is not known."""
    words = [word for word in re.split(r"[\s_,.-]+", name.casefold()) if word]
    whole = _found(" ".join(words))
    if whole is not None:
        return (*whole, None)
    sides = [SIDES[word] for word in words if word in SIDES]
    rest = _found(" ".join(word for word in words if word not in SIDES))
    return (*rest, sides[0]) if rest is not None and len(sides) == 1 else None


def _found(name: str) -> tuple[Code, Code] | None:
    for one in dict.fromkeys((name, name.removesuffix("s"))):
        plain = SAME.get(one, one)
        for category, table in COMMON.items():
            entries = {key.casefold(): entry for key, entry in table.items()}
            for key in (plain, plain.replace("vertebrae ", "vertebra ")):
                if key in entries:
                    value, meaning = entries[key]
                    return category, Code(value, SNOMED, meaning)
    return None


def _own_codes(name: str, entry: Any) -> tuple[Code, Code, Code | None]:
    if not isinstance(entry, Mapping) or not {CATEGORY, TYPE} <= set(entry) <= {CATEGORY, TYPE, MODIFIER}:
        raise SegflowError(
            f"the codes of label '{name}' cannot be used", found=shortened(entry), expected=_example(name)
        )
    modifier = _code(name, entry[MODIFIER]) if MODIFIER in entry else None
    return _code(name, entry[CATEGORY]), _code(name, entry[TYPE]), modifier


def _code(name: str, value: Any) -> Code:
    texts = [str(value.get(part, "")).strip() for part in PARTS] if isinstance(value, Mapping) else []
    if not texts or not all(0 < len(text) <= most for text, most in zip(texts, PARTS.values(), strict=True)):
        limits = ", ".join(f"{part} of at most {most} characters" for part, most in PARTS.items())
        raise SegflowError(f"a code of label '{name}' cannot be used", found=shortened(value), expected=limits)
    return Code(*texts)


def _example(name: str = "liver") -> str:
    def shown(code: Code) -> dict[str, str]:
        return dict(zip(PARTS, (code.value, code.scheme, code.meaning), strict=True))

    liver = Code("10200004", SNOMED, "Liver")
    return json.dumps({name: {CATEGORY: shown(ANATOMY), TYPE: shown(liver)}})
