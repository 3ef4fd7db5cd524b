"""``medveil node init``, ``enroll`` and ``certificate``: what an operator types first."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hospital_node.cli_ledger import DEFAULT, Folder, node_in
from medveil.bounds import MOST_PARAMETERS, MOST_STEPS, MOST_VOXELS
from medveil.errors import BadOption
from medveil.folders import named
from medveil.shown import Screen

if TYPE_CHECKING:
    from hospital_node.settings import NodeSettings

screen = Screen()


@dataclass(frozen=True, kw_only=True)
class NodeChoices:
    """What an operator may choose when a node is made, however that comes about."""

    dataset: Annotated[
        str | None, typer.Option(help="A name of this set of patients; the hospital's without.")
    ] = None
    epsilon_cap: Annotated[
        float, typer.Option(help="Most that any patient here may ever spend, over all studies.")
    ] = 10.0
    delta_cap: Annotated[
        float | None,
        typer.Option(help="Largest delta at which epsilon is counted here; min(1e-5, 1/(10 n)) without it."),
    ] = None
    allow_no_privacy: Annotated[
        bool, typer.Option(help="Also take part in studies without differential privacy.")
    ] = False
    count_joint_noise: Annotated[
        bool, typer.Option(help="Count the other hospitals' share of a joint noise towards the cap.")
    ] = False
    allow_site_figures: Annotated[
        bool,
        typer.Option(
            help="Also take part in studies that show this hospital's own figures to all who may read them."
        ),
    ] = False
    min_hospitals: Annotated[
        int, typer.Option(help="Fewest hospitals in a sum that this one takes part in.")
    ] = 3
    min_colluders: Annotated[
        int, typer.Option(help="Fewest dishonest hospitals, beside the aggregator, that a plan must resist.")
    ] = 0
    max_parameters: Annotated[int, typer.Option(help="Most parameters of a model.")] = MOST_PARAMETERS
    max_steps: Annotated[int, typer.Option(help="Most training steps of a whole study here.")] = MOST_STEPS
    max_voxels: Annotated[int, typer.Option(help="Most pixels or voxels of an image.")] = MOST_VOXELS
    memory_gb: Annotated[
        float | None, typer.Option(help="Most memory a plan may take, in GB; 90 % of the machine without it.")
    ] = None
    tasks: Annotated[
        list[str] | None,
        typer.Option("--task", help="What may be learned here; repeatable."),
    ] = None
    profiles: Annotated[
        list[str] | None, typer.Option("--profile", help="Kinds of images that may be used; repeatable.")
    ] = None
    hours: Annotated[
        str | None, typer.Option(help="Local time in which rounds are joined, e.g. 19:00-07:00.")
    ] = None
    max_upload_mb: Annotated[float | None, typer.Option(help="Most that a round may send, in MB.")] = None
    upload_bytes_per_s: Annotated[int | None, typer.Option(help="Fastest that updates are sent.")] = None
    gpu: Annotated[bool, typer.Option(help="Whether the GPU may be used.")] = True
    gpu_device: Annotated[int | None, typer.Option(help="Which GPU, counted from 0.")] = None
    gpu_memory_share: Annotated[float | None, typer.Option(help="Most of the GPU's memory, 0 to 1.")] = None
    burned_in: Annotated[
        str,
        typer.Option(help="Films that seem to show writing: warn, refuse, or blank (rectangles.toml)."),
    ] = "warn"
    faces: Annotated[str, typer.Option(help="Volumes that seem to show a face: warn, refuse or allow.")] = (
        "warn"
    )
    proxy: Annotated[
        str,
        typer.Option(help="The proxy to the aggregator; 'none': go without. HTTPS_PROXY says, if left out."),
    ] = ""
    folder: Folder = DEFAULT

    def settings(self, name: str, aggregator: str, data: Path) -> NodeSettings:
        """What is kept of them. Raises: BadOption."""
        from pydantic import ValidationError

        from hospital_node.settings import NodeSettings, Policy
        from medveil.handed import problem_of

        chosen = {limit: getattr(self, limit) for limit in Policy.model_fields}
        try:
            return NodeSettings(
                name=name,
                aggregator=aggregator.rstrip("/"),
                data=data.absolute(),
                dataset=self.dataset or name,
                policy=Policy(**chosen),
                proxy=self.proxy,
            )
        except ValidationError as error:
            raise BadOption(problem=problem_of(error)) from error


@dataclass(frozen=True, kw_only=True)
class NodeOptions(NodeChoices):
    """Options of ``medveil node init``."""

    name: Annotated[str, typer.Option(help="This hospital's name, e.g. st-marys.")]
    aggregator: Annotated[
        str, typer.Option(help="Address of the aggregator, e.g. https://fl.example.org:8443")
    ]
    authority: Annotated[Path, typer.Option(help="The aggregator's ca.pem, as its admin handed it out.")]
    data: Annotated[Path, typer.Option(help="Folder with manifest.csv and the images. Only read.")]


def init(options: NodeOptions) -> None:
    """Make this node's folder: identity key, settings, pinned authority."""
    from hospital_node.enrolment import set_up_node
    from medveil.authority import fingerprints_in

    settings = options.settings(options.name, options.aggregator, options.data)
    node = set_up_node(options.folder, settings, options.authority)
    from medveil.identity import Identity
    from medveil.ids import fingerprint

    identity = Identity.load(options.name, node.key)
    screen.say(f"The node of {options.name} is ready in {options.folder}.")
    screen.say("Compare both by telephone:")
    screen.say(f"  Its key's fingerprint:  {fingerprint(identity.public_key)}")
    for one in fingerprints_in(node.authority.read_bytes()):
        screen.say(f"  The aggregator's ca:    {one}")
    screen.say(f"Next: medveil node enroll TOKEN {named(options.folder)}")


def enroll(
    token: Annotated[str, typer.Argument(help="The one-time token that the admin gave you.")],
    folder: Folder = DEFAULT,
) -> None:
    """Make this hospital known to the aggregator."""
    node = node_in(folder)
    import asyncio

    from hospital_node.enrolment import enrol

    asyncio.run(enrol(node, token))
    screen.say(f"{node.settings.name} is enrolled. Next:")
    screen.say(f"  medveil node check {named(folder)}     then")
    screen.say(f"  medveil node approve {named(folder)}")


def certificate(folder: Folder = DEFAULT) -> None:
    """Get a TLS client certificate, where the aggregator asks for them; a running node renews it."""
    node = node_in(folder)
    import asyncio

    from hospital_node.enrolment import get_certificate

    asyncio.run(get_certificate(node))
    screen.say(f"The certificate is in {folder / 'client.pem'}.")
