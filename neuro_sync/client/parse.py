"""The texts that people write for addresses, images, volumes and variables."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import quote_from_bytes

from yarl import URL

from neuro_sync.errors import IllegalArgumentError, NeuroError, NotSupported
from neuro_sync.models.config import ClusterConfig
from neuro_sync.models.images import (
    LATEST,
    LocalImage,
    RemoteImage,
    TagOption,
    check_name,
    split_registry,
    split_tag,
)
from neuro_sync.models.jobs import DiskVolume, JobDescription, SecretFile, Volume
from neuro_sync.models.parse import (
    EnvParseResult,
    VolumeParseResult,
    split_secret_file,
    split_variables,
    split_volume,
    variable_lines,
)
from neuro_sync.models.uris import SCHEME, complete, file_parts, file_path, parse_uri, shorten

from .arguments import BadValuesRefused, several, strings
from .config import Config, Section

PLAIN_IN_PATHS = "/:@!$&'()*,;=~"
"""What a path of a URL holds unquoted, beside letters, digits and ``-._``."""

PATH_TYPES: tuple[type[str | Path], ...] = (str, Path)


class Parser(Section):
    """Reads what people write, ``session.parse``; the session completes what they leave out.

    Only what is left out is asked of the platform, once: a full address takes no connection.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._registries: dict[str, ClusterConfig] = {}
        # Thousands of jobs share a handful of images.
        self._own_images: Any = lru_cache(1024)(self._own_image)
        # Both are of one answer of the platform.
        self._revision = config.revision

    def str_to_uri(
        self,
        id_or_name_or_uri: str,
        *,
        allowed_schemes: str | Collection[str] = (),
        project_name: str | None = None,
        cluster_name: str | None = None,
        org_name: str | None = None,
        short: bool = False,
    ) -> URL:
        """Read an address, and complete it with the current cluster, organisation and project.

        ``storage:a`` lies in the project, ``storage:/other/a`` in the organisation, and
        ``storage://cluster/org/project/a`` is full already. With `short` what is current is left
        out instead. Where ``file`` is among `allowed_schemes`, text without a scheme is a path of
        this machine.

        Raises:
            IllegalArgumentError: It is no address, or not of one of `allowed_schemes`.
            ConfigError: There is no such cluster.
        """
        text = id_or_name_or_uri
        allowed_schemes = strings("allowed_schemes", allowed_schemes)
        scheme, colon, _ = text.partition(":")
        if "file" in allowed_schemes and not (colon and SCHEME.fullmatch(scheme)):
            return self.path_to_uri(Path(text))
        with BadValuesRefused():
            if colon and scheme.lower() == "file" and "file" in (allowed_schemes or ("file",)):
                return self.path_to_uri(file_path(text))
            uri = parse_uri(text, allowed_schemes)
            if uri.host and not short:
                return uri
            where = self._where(cluster_name, org_name, project_name)
            full = complete(uri, **where)
            return shorten(full, **where) if short else full

    def uri_to_str(self, uri: URL) -> str:
        """Write an address as text, from which `str_to_uri` reads the same one."""
        return str(uri)

    def normalize_uri(
        self,
        uri: URL,
        *,
        allowed_schemes: str | Collection[str] = (),
        project_name: str | None = None,
        cluster_name: str | None = None,
        org_name: str | None = None,
        short: bool = False,
    ) -> URL:
        """Complete an address, or shorten it; as `str_to_uri` does."""
        return self.str_to_uri(
            str(uri),
            allowed_schemes=allowed_schemes,
            project_name=project_name,
            cluster_name=cluster_name,
            org_name=org_name,
            short=short,
        )

    def path_to_uri(self, path: Path) -> URL:
        """Write a path of this machine as an absolute ``file:`` address; ``~`` is a home folder.

        Any name that a file can have makes the way there and back.

        Raises:
            IllegalArgumentError: There is no such user as in ``~user``.
        """
        try:
            absolute = path.expanduser().absolute()
        except RuntimeError as error:
            raise IllegalArgumentError(
                f"there is no home folder {path.parts[0]!r}; for a file of that name "
                f"write './{path}'"
            ) from error
        host, text = file_parts(absolute)
        quoted = quote_from_bytes(os.fsencode(text), safe=PLAIN_IN_PATHS)
        return URL(f"file://{host}{quoted}", encoded=True)

    def uri_to_path(self, uri: URL) -> Path:
        """Read a ``file:`` address.

        Raises:
            IllegalArgumentError: It is of another scheme, or names another machine.
        """
        with BadValuesRefused():
            if uri.scheme != "file":
                raise ValueError(f"{str(uri)!r} is no 'file:' address")
            return file_path(str(uri))

    def volume(
        self, volume: str, cluster_name: str | None = None, org_name: str | None = None
    ) -> Volume:
        """Read a volume: ``storage:PATH:/MOUNT/PATH``, with ``:ro`` behind it a read-only one.

        Raises:
            IllegalArgumentError: It is none.
        """
        with BadValuesRefused():
            address, path, read_only = split_volume(volume, "storage")
            uri = self._read(address, "storage", cluster_name, org_name)
            return Volume(storage_uri=uri, container_path=path, read_only=read_only)

    def disk_volume(
        self, volume: str, cluster_name: str | None = None, org_name: str | None = None
    ) -> DiskVolume:
        """Read a disk: ``disk:NAME:/MOUNT/PATH``, with ``:ro`` behind it a read-only one.

        Raises:
            IllegalArgumentError: It is none.
        """
        with BadValuesRefused():
            address, path, read_only = split_volume(volume, "disk")
            uri = self._read(address, "disk", cluster_name, org_name)
            return DiskVolume(disk_uri=uri, container_path=path, read_only=read_only)

    def secret_file(
        self, volume: str, cluster_name: str | None = None, org_name: str | None = None
    ) -> SecretFile:
        """Read a secret that a job sees as a file: ``secret:KEY:/MOUNT/PATH``.

        Raises:
            IllegalArgumentError: It is none.
        """
        with BadValuesRefused():
            address, path = split_secret_file(volume)
            uri = self._read(address, "secret", cluster_name, org_name)
            return SecretFile(secret_uri=uri, container_path=path)

    def volumes(
        self, volume: str | Sequence[str], cluster_name: str | None = None
    ) -> VolumeParseResult:
        """Read volumes, disks and secret files, and sort them by kind.

        Raises:
            IllegalArgumentError: One of them is none of these.
        """
        volumes, disks, secrets = [], [], []
        for text in strings("volume", volume):
            if text in ("HOME", "ALL"):
                raise IllegalArgumentError(
                    f"the volume {text!r} is no longer supported; name what is mounted, such as "
                    "'storage::/mnt' for the whole project"
                )
            if text.startswith("secret:"):
                secrets.append(self.secret_file(text, cluster_name))
            elif text.startswith("disk:"):
                disks.append(self.disk_volume(text, cluster_name))
            else:
                volumes.append(self.volume(text, cluster_name))
        return VolumeParseResult(
            volumes=tuple(volumes), secret_files=tuple(secrets), disk_volumes=tuple(disks)
        )

    def envs(
        self,
        env: str | Sequence[str],
        env_file: str | Path | Sequence[str | Path] = (),
        cluster_name: str | None = None,
    ) -> EnvParseResult:
        """Read variables, ``NAME=VALUE`` each; those of the files first, and the last one counts.

        ``NAME=secret:KEY`` takes the value of a secret, and ``NAME`` alone that of this process's
        own variable, or none. In a file, empty lines and those that begin with ``#`` are comments.

        Raises:
            IllegalArgumentError: A secret's address is none, or a file is not UTF-8.
            OSError: A file cannot be read.
        """
        files = several("env_file", env_file, PATH_TYPES)
        lines = [line for file in files for line in variable_lines(_text_of(Path(file)))]
        values = dict(split_variables([*lines, *strings("env", env)], os.environ))
        with BadValuesRefused():
            secrets = {
                name: self._read(value, "secret", cluster_name)
                for name, value in values.items()
                if value.startswith("secret:")
            }
        plain = {name: value for name, value in values.items() if name not in secrets}
        return EnvParseResult(env=plain, secret_env=secrets)

    def local_image(self, image: str) -> LocalImage:
        """Read an image of the engine on this machine, ``NAME`` or ``NAME:TAG``.

        Raises:
            IllegalArgumentError: It is none.
        """
        with _reading("local", image):
            if image.startswith("image:"):
                raise ValueError("an 'image:' address is one of the platform; write NAME:TAG")
            return _external(image)

    def remote_image(
        self,
        image: str,
        *,
        tag_option: TagOption = TagOption.DEFAULT,
        cluster_name: str | None = None,
        org_name: str | None = None,
        project_name: str | None = None,
    ) -> RemoteImage:
        """Read an image of the platform, ``image:NAME:TAG``, or of any registry, ``NAME:TAG``.

        A reference that begins with the registry of one of the platform's clusters is the
        platform's too. `tag_option` is about the platform's images; any other has a tag always.

        Raises:
            IllegalArgumentError: It is none.
            ConfigError: There is no such cluster.
        """
        with _reading("remote", image):
            located = self._locate(image, cluster_name, org_name, project_name)
            if located is None:
                external = _external(image)
                return RemoteImage.new_external_image(external.name, tag=external.tag)
            cluster, org, path = located
            path, tag = split_tag(path)
            project, _, name = path.partition("/")
            if not name:
                raise ValueError("no image name; write image:NAME:TAG")
            check_name(project)
            check_name(name)
            if tag and tag_option is TagOption.DENY:
                raise ValueError(f"the tag {tag!r} is not allowed here; write the name alone")
            if tag_option is TagOption.DEFAULT:
                tag = tag or LATEST
            return _image(cluster, org, project, name, tag)

    def platform_image(
        self, image: RemoteImage | str, *, cluster_name: str | None = None
    ) -> RemoteImage:
        """Read an image that has to be one of the platform's own.

        Raises:
            IllegalArgumentError: It is not.
        """
        if isinstance(image, str):
            image = self.remote_image(image, cluster_name=cluster_name)
        if not image.cluster_name:
            raise IllegalArgumentError(
                f"{str(image)!r} is no image of the platform; write 'image:NAME:TAG'"
            )
        return image

    def _locate(
        self,
        image: str,
        cluster_name: str | None,
        org_name: str | None,
        project_name: str | None,
    ) -> tuple[ClusterConfig, str | None, str] | None:
        """Find where one of the platform's images lies: the cluster, the org, PROJECT/NAME:TAG."""
        host, path = split_registry(image)
        whole = True
        if image.startswith("image:"):
            uri = parse_uri(image)
            cluster = self._config.cluster(uri.host or cluster_name)
            path = uri.path.removeprefix("/")
            if not uri.path.startswith("/"):
                path = f"{project_name or self._config.project_name}/{path}"
            whole = bool(uri.host)
        elif host and (found := self._cluster_of(host)):
            cluster = found
        else:
            return None
        org = org_name or self._config.org_name
        first, _, rest = path.partition("/")
        # As the hosted platform's clients have it, only a whole address may leave the org out.
        if whole and first in (org, *cluster.orgs):
            return cluster, first, rest
        return cluster, org, path

    def recognize(self, job: JobDescription) -> JobDescription:
        """Tell a new job's image as the platform's own, where its registry is one."""
        image = job.container.image
        own = self.own_image(image.name, image.tag) if "/" in image.name else None
        if own:
            # In place: nobody else has the job yet, and a listing has thousands of them.
            job.container.__dict__["image"] = own
        return job

    def own_image(self, reference: str, tag: str | None = None) -> RemoteImage | None:
        """Return the platform's image that a reference without its tag names, if it does."""
        self._drop_stale()
        found: RemoteImage | None = self._own_images(reference, tag)
        return found

    def _drop_stale(self) -> None:
        if self._revision != self._config.revision:
            self._revision = self._config.revision
            self._registries = {}
            self._own_images.cache_clear()

    def _own_image(self, reference: str, tag: str | None = None) -> RemoteImage | None:
        host, path = split_registry(reference)
        cluster = self._cluster_of(host) if host else None
        if cluster is None:
            return None
        org, slash, rest = path.partition("/") if any(cluster.orgs) else (None, "/", path)
        project, _, name = rest.partition("/")
        return _image(cluster, org, project, name, tag) if slash and project and name else None

    def _cluster_of(self, registry: str) -> ClusterConfig | None:
        """Return the cluster whose registry it is; this is what takes the platform's answer."""
        self._drop_stale()
        if not self._registries:
            clusters = self._config.platform.clusters
            self._registries = {cluster.registry: cluster for cluster in clusters}
        return self._registries.get(registry)

    def _read(
        self,
        address: str,
        scheme: str,
        cluster_name: str | None = None,
        org_name: str | None = None,
    ) -> URL:
        return self.str_to_uri(
            address, allowed_schemes=(scheme,), cluster_name=cluster_name, org_name=org_name
        )

    def _where(
        self, cluster_name: str | None, org_name: str | None, project_name: str | None
    ) -> dict[str, Any]:
        return {
            "cluster": self._config.cluster(cluster_name).name,
            "org": org_name or self._config.org_name,
            "project": project_name or self._config.project_name,
        }


@contextmanager
def _reading(kind: str, image: str) -> Iterator[None]:
    """Refuse what is no image of either kind, and say of any other error which image it was."""
    try:
        if not image:
            raise ValueError("it is empty; write NAME or NAME:TAG")
        if image.startswith("-"):
            raise ValueError("an image cannot begin with a dash")
        if image == "image:latest":
            raise ValueError(
                "it may be a local image named 'image', or one of the platform named 'latest'; "
                "write image:latest:latest for the latter"
            )
        yield
    except NeuroError:
        raise
    except ValueError as error:
        raise IllegalArgumentError(f"Invalid {kind} image {image!r}: {error}") from error


def _external(image: str) -> LocalImage:
    """Read an image that is not the platform's; the name begins with its registry, if any."""
    name, tag = split_tag(image)
    check_name(split_registry(name)[1])
    return LocalImage(name=name, tag=tag or LATEST)


def _image(
    cluster: ClusterConfig, org: str | None, project: str, name: str, tag: str | None
) -> RemoteImage:
    if not cluster.registry:
        raise NotSupported(f"the cluster {cluster.name} has no registry for images of its own")
    return RemoteImage.new_platform_image(
        name,
        cluster.registry,
        cluster_name=cluster.name,
        org_name=org,
        project_name=project,
        tag=tag,
    )


def _text_of(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise IllegalArgumentError(
            f"{str(file)!r} is not UTF-8, at byte {error.start}; save it as UTF-8"
        ) from error
