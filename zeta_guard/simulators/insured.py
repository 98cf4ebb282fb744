"""Fictitious insured persons with the KVNRs and the institution code of the published test cards."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

TEST_INSURER: Final = "109500969"
"""IK of "Test GKV-SV"."""


@dataclass(frozen=True, slots=True)
class Insured:
    """Who an eGK belongs to and what the insurer knows about the person."""

    kvnr: str
    given: tuple[str, ...]
    family: str
    birth_date: str
    gender: str
    street: str
    house_number: str
    postal_code: str
    city: str
    insurer_id: str = TEST_INSURER
    insurer_name: str = "Test GKV-SV"
    cover_from: str = "2000-01-01"
    insured_type: str = "1"
    wop: str = "83"
    name_prefix: str = ""


KRIEMHILD: Final = Insured(
    "X110639491", ("Kriemhild",), "Brüser", "1990-07-17", "female", "Friedrichstraße", "136", "10117", "Berlin"
)
DOERTHE: Final = Insured(
    "X110630769", ("Dörthe",), "Daammer-Örsted", "1962-03-08", "female", "Hafenweg", "12a", "25813", "Husum", wop="01"
)
ANASTASIA: Final = Insured(
    "X110617786",
    ("Anastasia",),
    "Doria",
    "1978-11-30",
    "female",
    "Maximilianstraße",
    "5",
    "80539",
    "München",
    wop="71",
    name_prefix="Gräfin",
)
MIA: Final = Insured(
    "X110687252",
    ("Mia", "Laura"),
    "Kätner",
    "2014-05-02",
    "female",
    "Am Deich",
    "3",
    "26506",
    "Norden",
    insured_type="3",
)
PETER: Final = Insured(
    "X110540756", ("Peter",), "Blau", "1955-01-23", "male", "Blaue Gasse", "1", "50676", "Köln", insured_type="5"
)

PERSONAS: Final = (KRIEMHILD, DOERTHE, ANASTASIA, MIA, PETER)
