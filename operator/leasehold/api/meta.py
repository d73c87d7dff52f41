"""What every kind shares: the base model, quantities, times, conditions, and what a CRD adds to a schema."""

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar, Final

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel

from leasehold.api.names import API_VERSION, ConditionStatus, Named
from leasehold.api.quantity import MAX_LENGTH, PATTERN, QuantityError, parse

RULES: Final = "x-kubernetes-validations"

INT32_MAX: Final = 2**31 - 1
MAX_RESOURCES: Final = 16
MAX_SLICES: Final = 64
NAME_LENGTH: Final = 253
TIME_LENGTH: Final = 40
UID_LENGTH: Final = 64

LARGEST_QUANTITY: Final = "1P"
"""Largest amount a spec may name: its thousandths still fit in 64 bits."""

_LARGEST: Final = parse(LARGEST_QUANTITY)


def uid_of_other(alias: str, description: str) -> Any:
    """Return the field for the metadata.uid of another object. UID is spelled in capitals on the wire."""
    return Field(
        default=None,
        validation_alias=alias,
        serialization_alias=alias,
        min_length=1,
        max_length=UID_LENGTH,
        description=description,
    )


# --- What a CRD says beside its schema ---


@dataclass(frozen=True, slots=True)
class Rule:
    """One CEL rule of ``x-kubernetes-validations``: what must be true, and what the user reads if it is not.

    ``field_path`` points the message at one field (``.spec.count``) instead of the object that carries the
    rule; ``reason`` is the kind of error, ``FieldValueInvalid`` unless set. With ``optional_old_self`` the rule
    runs at creation too, and ``oldSelf`` is an optional value.
    """

    KEYS: ClassVar = ("rule", "message", "fieldPath", "reason", "optionalOldSelf")

    rule: str
    message: str
    field_path: str = ""
    reason: str = ""
    optional_old_self: bool = False

    def to_wire(self) -> dict[str, str | bool]:
        """Return the rule as the CRD writes it."""
        parts: tuple[str | bool, ...] = (
            self.rule,
            self.message,
            self.field_path,
            self.reason,
            self.optional_old_self,
        )
        return {key: part for key, part in zip(self.KEYS, parts, strict=True) if part}


@dataclass(frozen=True, slots=True)
class Column:
    """One column of ``kubectl get``. Columns of priority 1 are shown with ``-o wide`` only."""

    name: str
    path: str
    kind: str = "string"
    priority: int = 0
    description: str = ""

    def to_wire(self) -> dict[str, Any]:
        """Return the column as the CRD writes it."""
        wire: dict[str, Any] = {"name": self.name, "type": self.kind, "jsonPath": self.path}
        if self.description:
            wire["description"] = self.description
        if self.priority:
            wire["priority"] = self.priority
        return wire


AGE: Final = Column("Age", ".metadata.creationTimestamp", "date")


@dataclass(frozen=True, slots=True)
class KindInfo:
    """What the API server must know of a kind beside its fields."""

    kind: str
    plural: str
    short_names: tuple[str, ...]
    namespaced: bool
    columns: tuple[Column, ...]
    selectable_fields: tuple[str, ...] = field(default=())


def rules(*entries: Rule, **more: Any) -> dict[str, Any]:
    """Return the schema extension that carries these rules, with any further keywords beside it."""
    return {RULES: [entry.to_wire() for entry in entries], **more}


def keyed_by(*keys: str) -> dict[str, Any]:
    """Return the schema extension of a list whose items are told apart by these fields."""
    return {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": list(keys)}


UNIQUE: Final[dict[str, Any]] = {"x-kubernetes-list-type": "set"}
"""The schema extension of a list without duplicates, in no order."""

ORDERED: Final[dict[str, Any]] = {"x-kubernetes-list-type": "atomic"}
"""The schema extension of a list that is replaced as a whole."""


def nested(model: type["Model"], description: str) -> Any:
    """Return a field that, left out, is an empty object, in which each field then takes its own default."""
    return Field(default_factory=model, json_schema_extra={"default": {}}, description=description)


def choice(choices: type[Named], question: str) -> str:
    """Return a field's description: what it decides, and what each value means."""
    return f"{question} " + "; ".join(f"{member}: {member.meaning}" for member in choices) + "."


# --- Values ---

_SHAPE: Final = PATTERN.replace("[+-]?(", "[+]?(", 1)
_UNSIGNED: Final = PATTERN.replace("[+-]?(", "(", 1)


def _well_formed(value: str) -> str:
    # Comes before every use of quantity(): the API server's own parser takes minutes and gigabytes over a
    # text such as 1e999999999, every rule runs whatever other rules say, and CEL's cost limit does not see
    # into the parser.
    return f"string({value}).matches(r'{_SHAPE}')"


def at_most(value: str, limit: str) -> str:
    """Return the CEL condition that one quantity is not more than another; false where one is malformed."""
    return (
        f"{_well_formed(value)} && {_well_formed(limit)}"
        f" && quantity(string({value})).compareTo(quantity(string({limit}))) <= 0"
    )


def _quantity_schema(least: str, message: str) -> dict[str, Any]:
    text = "quantity(string(self))"
    rule = (
        f"{_well_formed('self')} && {text}.compareTo(quantity('0')) {least} 0"
        f" && {text}.compareTo(quantity('{LARGEST_QUANTITY}')) <= 0"
    )
    return {"x-kubernetes-int-or-string": True, "maxLength": MAX_LENGTH, **rules(Rule(rule, message))}


def _readable(value: int | str) -> int | str:
    if parse(str(value)) > _LARGEST:
        raise QuantityError(f"quantity {value!r} is more than {LARGEST_QUANTITY}; write a smaller amount")
    return value


def _positive(value: int | str) -> int | str:
    if not parse(str(_readable(value))):
        raise QuantityError(f"quantity {value!r} is zero; write an amount greater than 0")
    return value


Quantity = Annotated[
    int | str,
    AfterValidator(_readable),
    WithJsonSchema(
        _quantity_schema(">=", f"must be a quantity from 0 to {LARGEST_QUANTITY}, such as 500m, 2 or 4Gi")
    ),
]
"""An amount of 0 or more, as people write it: a whole number or a text such as ``4Gi``."""

PositiveQuantity = Annotated[
    int | str,
    AfterValidator(_positive),
    WithJsonSchema(
        _quantity_schema(
            ">", f"must be a quantity greater than 0 and at most {LARGEST_QUANTITY}, such as 500m, 2 or 4Gi"
        )
    ),
]
"""An amount greater than 0, as people write it."""

Amount = Annotated[str, Field(max_length=MAX_LENGTH, pattern=_UNSIGNED)]
"""An amount of 0 or more as Leasehold writes it, in a status: always text, checked by shape alone."""

Count = Annotated[int, Field(ge=0, le=INT32_MAX)]
"""A number of things."""

Serial = Annotated[int, Field(ge=0)]
"""A number that only ever grows, up to 64 bits, which its format alone bounds."""


def _to_text(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


TIME_PATTERN: Final = (
    "^[0-9]{4}-[0-9]{2}-[0-9]{2}T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]([.][0-9]{1,9})?"
    "(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
"""RFC 3339 as everybody reads it. The format `date-time` alone also takes `t`, `z` and odd offsets, at which the rules
of the same object then fail at every later write: such an object could never be written again.
"""

_TIME_SCHEMA: Final = {
    "type": "string",
    "format": "date-time",
    "maxLength": TIME_LENGTH,
    "pattern": TIME_PATTERN,
}

Timestamp = Annotated[
    AwareDatetime, PlainSerializer(_to_text, return_type=str, when_used="json"), WithJsonSchema(_TIME_SCHEMA)
]
"""A moment. Written in UTC with microseconds; any offset is read."""

TimeText = Annotated[
    str, Field(max_length=TIME_LENGTH, json_schema_extra={"format": "date-time", "pattern": TIME_PATTERN})
]
"""A moment kept as the text it was written in, where any change of the text counts."""


class Model(BaseModel):
    """Base of everything on the wire: camelCase there, snake_case here.

    Unknown fields are ignored on reading, so that a newer CRD does not break an older client.
    """

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore")

    def to_wire(self) -> dict[str, Any]:
        """Return the JSON object for the API server: camelCase, without the fields that are unset."""
        return self.model_dump(mode="json", by_alias=True, exclude_none=True)


class OwnerReference(Model):
    """An object that owns this one."""

    api_version: str
    kind: str
    name: str
    uid: str
    controller: bool | None = None
    block_owner_deletion: bool | None = None


class ObjectMeta(Model):
    """The part of Kubernetes object metadata that Leasehold reads. The API server holds its schema."""

    name: str | None = None
    generate_name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    generation: int | None = None
    creation_timestamp: Timestamp | None = None
    deletion_timestamp: Timestamp | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    finalizers: list[str] | None = None
    owner_references: list[OwnerReference] | None = None


class Resource(Model):
    """Base of the kinds: an object with metadata. Each kind adds its spec, its status and its ``info``."""

    info: ClassVar[KindInfo]

    api_version: str = API_VERSION
    kind: str
    metadata: ObjectMeta = Field(default_factory=ObjectMeta)


class Condition(Model):
    """One observation about the object, in the form of metav1.Condition."""

    type: str = Field(
        min_length=1, max_length=64, pattern=r"^[A-Z][A-Za-z0-9]*$", description="What is observed."
    )
    status: ConditionStatus = Field(description="Whether it is so: True, False, or Unknown.")
    reason: str = Field(
        min_length=1,
        max_length=64,
        pattern=r"^[A-Z][A-Za-z0-9]*$",
        description="One word for machines, from the documented list.",
    )
    message: str = Field(max_length=1024, description="One or two sentences for people; may be empty.")
    last_transition_time: Timestamp = Field(description="When status last changed.")
    observed_generation: Serial | None = Field(
        default=None,
        description="The metadata.generation this was observed of. Older than the object's: not yet seen.",
    )


Conditions = Annotated[
    list[Condition],
    Field(max_length=16, json_schema_extra=keyed_by("type")),
]
"""Conditions by type."""
