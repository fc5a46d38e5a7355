"""The words of mesh.yaml: which there are, what shape each has, and what a single value must be.

These models are the language; schema.py makes the JSON schema of them and parse.py the Spec. Rules that need two
places of the file (overlaps, unknown names) live in parse.py. This is the only file of the core that loads pydantic,
which is a third of a second no completion should pay: parse.py and schema.py import it when they are called.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, PlainValidator, Tag, WithJsonSchema
from pydantic.annotated_handlers import GetJsonSchemaHandler
from pydantic_core import CoreSchema, PydanticCustomError

from meshctl.core import ip, names, spelling, users
from meshctl.core.spec import At, EndpointWords, KillSwitch, SshAddress, Users, host_port

NOT_YET = {
    "devices": "a device gets its file or QR code from a later version",
    "pools": "slots for short-lived machines come with a later version",
    "allow": "without it every link carries everything, so ignoring it would open what you closed",
    "expect": "run meshctl plan: it lists which pairs gain and lose reach",
    "keys": "private keys are made by meshctl and kept in mesh.keys",
}
"""Words of the language that this version doesn't carry out, and what to know about each."""

T = TypeVar("T")

_AMOUNT = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|%)")


def _fault(code: str, what: str, hint: str | None = None) -> PydanticCustomError:
    return PydanticCustomError(code, "{what}", {"what": what, "hint": hint})


def _text(value: object, noun: str, example: str) -> str:
    if isinstance(value, str) and value:
        return value
    raise _fault("type", f"{noun} is a text here", f"write it as {example}")


def _parsed(make: Callable[[], T], code: str) -> T:
    """What `make` makes; its ValueError (a sentence, and a hint) becomes a fault."""
    try:
        return make()
    except ValueError as fault:
        raise _fault(code, *fault.args) from None


def _ssh(value: object) -> SshAddress:
    text = _text(value, "ssh", "user@host.example.com")
    return _parsed(lambda: SshAddress.parse(text), "name")


def _endpoint(value: object) -> EndpointWords:
    example = "vpn.example.com or 192.0.2.1:51820"
    text = _text(value, "endpoint", example)
    return _parsed(lambda: EndpointWords(*host_port(text, "an endpoint", example)), "name")


def _at(value: object) -> At:
    """`office`, or `{office: 10.0.0.5}` with the address the host has there."""
    endpoint = None
    if isinstance(value, dict) and len(value) == 1:
        (value, inner), *_ = value.items()
        text = _text(inner, "the address at a place", "10.0.0.5")
        endpoint, port = _parsed(lambda: host_port(text, "an address", "10.0.0.5"), "name")
        if port is not None:
            raise _fault("port", "a private endpoint has the host's own port", f"write {endpoint}")
    place = _text(value, "at", "office, or {office: 10.0.0.5}")
    return At(_label("place")(place), endpoint)


def _kill_switch(value: object) -> KillSwitch | None:
    """`true`, `false`, or `{allow: [tcp/22]}` with the services whose answers may leave all the same."""
    if isinstance(value, bool):
        return KillSwitch() if value else None
    if not isinstance(value, dict) or set(value) != {"allow"}:
        raise _fault("type", "kill_switch is true, false or {allow: …}", "write kill_switch: {allow: [tcp/22]}")
    return KillSwitch(tuple(sorted({_tcp_port(item) for item in _listed(value["allow"])})))


def _route(value: object) -> Users | None:
    """`all`, `{users: [alice, 2000-2999]}`, or `false` where `defaults:` say otherwise."""
    if value is False:
        return None
    if value == "all":
        return Users()
    if not isinstance(value, dict) or set(value) != {"users"}:
        raise _fault("type", "route is all or {users: …}", "write route: {users: [alice]}, or route: all")
    if not (listed := _listed(value["users"])):
        raise _fault("missing", "users is empty", "name at least one, or write route: all")
    return Users(users.in_order(_user(item) for item in listed))


def _user(value: object) -> str:
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise _fault("user", f"{spelling.value(value)} is not a user", "write users: [alice, 2000-2999]")
    try:
        return users.parse(str(value))
    except ValueError as fault:
        raise _fault("user", f"{spelling.value(value)}: {fault.args[0]}", fault.args[1]) from None


def _listed(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _tcp_port(value: object) -> int:
    kind, _, port = str(value).lower().partition("/")
    if kind != "tcp" or not re.fullmatch(r"[0-9]{1,5}", port) or not 1 <= int(port) <= 65535:
        raise _fault("port", f"{spelling.value(value)} is not a TCP service", "write it as tcp/22")
    return int(port)


def _net(value: object) -> ip.Net:
    text = _text(value, "a network", "192.168.20.0/24")
    return _parsed(lambda: ip.parse_net(text), "cidr")


def _addr(value: object) -> ip.Addr:
    text = _text(value, "an address", "10.20.0.1")
    return _parsed(lambda: ip.parse_addr(text), "address")


def _label(noun: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        text = _text(value, f"the name of a {noun}", "db")
        if (fault := names.label_fault(text, noun)) is not None:
            near = names.tidy(text)
            raise _fault("name", fault, f"for example {near}" if near else "for example db")
        return text

    return check


def _mesh(value: object) -> str:
    text = _text(value, "mesh", "prod")
    if (fault := names.mesh_name_fault(text)) is not None:
        near = names.tidy(text, 15)
        raise _fault("name", fault, f"for example {near}" if near else "for example prod")
    return text


def _link(value: object) -> tuple[str, str]:
    sides = [s.strip() for s in _text(value, "a link", '"a -- b"').split("--")]
    if len(sides) != 2 or not all(sides):
        raise _fault(
            "link", f"{spelling.value(value)} is not a link", 'write it as "a -- b", a side being a host, a group or *'
        )
    return sides[0], sides[1]


def _full(value: object) -> str:
    if value != "full":
        hint = names.did_you_mean(str(value), ["full"]) or 'write full, {hub: a} or a list like ["a -- b"]'
        raise _fault("link", f"{spelling.value(value)} is not a way to link hosts", hint)
    return "full"


def _links_kind(value: object) -> str:
    """A tag that no word of the file can be: it appears in the path of a fault."""
    return "=hub" if isinstance(value, dict) else "=lines" if isinstance(value, list) else "=full"


def _amount(units: dict[str, float], example: str) -> Callable[[object], float]:
    def read(value: object) -> float:
        found = _AMOUNT.fullmatch(str(value).strip())
        if found is None or found[2] not in units:
            raise _fault("amount", f"{spelling.value(value)} can't be read", f"write it as {example}")
        return float(found[1]) * units[found[2]]

    return read


def _number_as_text(value: object) -> object:
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _some(value: object) -> object:
    return value if isinstance(value, list) else [value]


def _one_or_more(item: dict[str, Any]) -> WithJsonSchema:
    return WithJsonSchema({"anyOf": [item, {"type": "array", "items": item}]})


_LABEL = {"type": "string", "pattern": f"^{names.LABEL.pattern}$"}
_CIDR = {"type": "string", "examples": ["192.168.20.0/24", "fd00:1::/64"]}
_SERVICE = {"type": "string", "pattern": "^tcp/[0-9]{1,5}$", "examples": ["tcp/22"]}
_USER = {"type": ["string", "integer"], "examples": ["alice", 1001, "2000-2999"]}
_IP = {"type": "string", "examples": ["10.20.0.1", "fd00:1::1"]}

Mesh = Annotated[str, PlainValidator(_mesh), WithJsonSchema({"type": "string", "pattern": f"^{names.MESH.pattern}$"})]
HostName = Annotated[str, PlainValidator(_label("host")), WithJsonSchema(_LABEL)]
Group = Annotated[str, PlainValidator(_label("group"))]
Groups = Annotated[list[Group], BeforeValidator(_some), _one_or_more(_LABEL)]
HostNames = Annotated[list[HostName], BeforeValidator(_some), Field(min_length=1), _one_or_more(_LABEL)]
Cidr = Annotated[ip.Net, PlainValidator(_net)]
Cidrs = Annotated[list[Cidr], BeforeValidator(_some), _one_or_more(_CIDR)]
Addresses = Annotated[list[Annotated[ip.Addr, PlainValidator(_addr)]], BeforeValidator(_some), _one_or_more(_IP)]
Ssh = Annotated[
    SshAddress, PlainValidator(_ssh), WithJsonSchema({"type": "string", "examples": ["root@a.example.com"]})
]
Endpoint = Annotated[
    EndpointWords, PlainValidator(_endpoint), WithJsonSchema({"type": "string", "examples": ["vpn.example.com:51820"]})
]
Place = Annotated[
    At,
    PlainValidator(_at),
    WithJsonSchema(
        {
            "anyOf": [
                _LABEL,
                {"type": "object", "minProperties": 1, "maxProperties": 1, "additionalProperties": {"type": "string"}},
            ]
        }
    ),
]
Closed = Annotated[
    KillSwitch | None,
    PlainValidator(_kill_switch),
    WithJsonSchema(
        {
            "anyOf": [
                {"type": "boolean"},
                {
                    "type": "object",
                    "properties": {"allow": {"anyOf": [_SERVICE, {"type": "array", "items": _SERVICE}]}},
                    "required": ["allow"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]
Routed = Annotated[
    Users | None,
    PlainValidator(_route),
    WithJsonSchema(
        {
            "anyOf": [
                {"enum": ["all", False]},
                {
                    "type": "object",
                    "properties": {"users": {"anyOf": [_USER, {"type": "array", "items": _USER, "minItems": 1}]}},
                    "required": ["users"],
                    "additionalProperties": False,
                },
            ]
        }
    ),
]
Text = Annotated[str, BeforeValidator(_number_as_text)]
Port = Annotated[int, Field(ge=1, le=65535)]
Mtu = Annotated[int, Field(ge=1280, le=65455)]


class Words(BaseModel):
    """Exactly these words, with exactly these types."""

    model_config = ConfigDict(extra="forbid", strict=True, title="")


class Defaults(Words):
    """What holds for every host that doesn't say otherwise."""

    nat: bool | None = Field(None, description="the hosts sit behind NAT: nobody can open a connection to them")
    groups: Groups | None = Field(None, description="names for links")
    owner: Text | None = Field(None, description="who to ask; shown by status")
    note: Text | None = Field(None, description="anything; shown by status")
    at: Place | None = Field(None, description="hosts at the same place use their private endpoints")
    port: Port | None = Field(None, description="UDP port that meshd listens on")
    mtu: Mtu | None = Field(None, description="MTU of the interface; default: right for the path")
    route: Routed = Field(
        None, description="what leaves through an exit, and in no other way: all, or {users: [alice, 2000-2999]}"
    )
    via: HostName | None = Field(None, description="the exit that route: leaves by; default: the only one")
    kill_switch: Closed = Field(
        None, description="nothing leaves but through the mesh: true, or {allow: [tcp/22]} for answers of services"
    )


class Host(Defaults):
    """A host: reached over SSH, runs meshd."""

    ssh: Ssh = Field(description="[user@]host[:port]; the host may be an alias of ssh_config")
    endpoint: Endpoint | None = Field(None, description="where others reach it; default: its SSH host name")
    lan: Cidrs | None = Field(None, description="networks behind this host that the mesh can reach")
    address: Addresses | None = Field(None, description="its addresses in the mesh; default: allotted")
    exit: bool | None = Field(None, description="other hosts may leave for the internet by this one (see route)")

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"anyOf": [{"type": "string", "examples": ["root@a.example.com"]}, handler(schema)]}


def _host(value: object) -> object:
    if isinstance(value, str):
        return {"ssh": value}
    if not isinstance(value, dict):
        what = "this host has no SSH address" if value is None else "that is no way to reach a host"
        raise _fault("missing", what, "write it as NAME: root@host.example.com")
    return value


class HubWords(Words):
    hub: HostNames = Field(description="the host, or hosts, that all others are linked with")


class LabHost(Words):
    behind: Literal["nat", "none"] = Field("none", description="what stands between this host and the internet")


class Lab(Words):
    """The simulated internet of meshctl lab."""

    latency: Annotated[float, PlainValidator(_amount({"ms": 1, "s": 1000}, "20ms"))] = Field(
        0.0, description="one way, like 20ms", json_schema_extra={"type": "string"}
    )
    loss: Annotated[float, PlainValidator(_amount({"%": 0.01}, "1%"))] = Field(
        0.0, description="of packets, like 1%", json_schema_extra={"type": "string"}
    )
    hosts: dict[str, LabHost] = Field(default_factory=dict)


Links = Annotated[
    Annotated[str, PlainValidator(_full), WithJsonSchema({"const": "full"}), Tag("=full")]
    | Annotated[HubWords, Tag("=hub")]
    | Annotated[
        list[Annotated[tuple[str, str], PlainValidator(_link), WithJsonSchema({"type": "string"})]], Tag("=lines")
    ],
    Discriminator(_links_kind),
]


class MeshFile(Words):
    """A private mesh, as meshctl applies it."""

    mesh: Mesh = Field(description="the name of the mesh, and of its interface on every host")
    network: Cidrs | None = Field(None, description="at most one IPv4 and one IPv6 network; default: from the name")
    port: Port | None = Field(None, description="UDP port of every host; default 51820 or the next free one")
    mtu: Mtu | None = Field(None, description="MTU of every interface; default: right for the path")
    hosts: dict[HostName, Annotated[Host, BeforeValidator(_host)]] = Field(description="the hosts by name")
    defaults: Defaults | None = Field(None, description="what holds for every host")
    links: Links = Field("full", description="full, {hub: NAME}, or a list of links like a -- b")
    lab: Lab | None = Field(None, description="the simulated internet of meshctl lab")
