"""What people write for addresses, images, volumes and variables."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from yarl import URL

from neuro_sync import (
    ConfigError,
    IllegalArgumentError,
    LocalImage,
    RemoteImage,
    Session,
    TagOption,
)
from tests.two_clusters import TwoClusters, two_clusters

HERE = "storage://default/acme/vision"
DEFAULT_REGISTRY = "registry.default.example.org"
GPU_REGISTRY = "registry.gpu.example.org:8443"
OFFLINE = Session("http://127.0.0.1:9/api/v1", "a.b.c").parse
"""Of a session that reaches nobody."""


@pytest.fixture(scope="module")
def platform() -> Iterator[TwoClusters]:
    with two_clusters() as server:
        yield server


@pytest.fixture(scope="module")
def session(platform: TwoClusters) -> Iterator[Session]:
    with Session(platform.url, platform.token) as opened:
        yield opened


# Addresses


@pytest.mark.parametrize(
    ("text", "full", "short"),
    [
        ("storage:", HERE, "storage:"),
        ("storage://", HERE, "storage:"),
        ("storage:a/b", f"{HERE}/a/b", "storage:a/b"),
        ("storage:/other/a", "storage://default/acme/other/a", "storage://default/acme/other/a"),
        ("storage:////other/a", "storage://default/acme/other/a", "storage://default/acme/other/a"),
        ("storage://gpu/acme/vision/a/", "storage://gpu/acme/vision/a/", None),
        ("storage://gpu/x", "storage://gpu/x", "storage://gpu/x"),
        ("storage:5", f"{HERE}/5", "storage:5"),
        ("storage:a/../b", f"{HERE}/b", "storage:b"),
        ("storage:.", f"{HERE}/", "storage:"),
        ("storage:a/", f"{HERE}/a/", "storage:a"),
        ("storage:a//b", f"{HERE}/a//b", "storage:a//b"),
        ("storage:a b", f"{HERE}/a%20b", "storage:a%20b"),
        ("storage:a:b@c", f"{HERE}/a:b@c", "storage:a:b@c"),
        (f"{HERE}//a", f"{HERE}//a", f"{HERE}//a"),
        (f"{HERE}/~a", f"{HERE}/~a", f"{HERE}/~a"),
        (f"{HERE}x", f"{HERE}x", f"{HERE}x"),
        ("storage://GPU/x", "storage://gpu/x", "storage://gpu/x"),
        ("STORAGE:a", f"{HERE}/a", "storage:a"),
        ("job:my-job", "job://default/acme/vision/my-job", "job:my-job"),
        ("flow:x", "flow://default/acme/vision/x", "flow:x"),
        ("role://alice/roles/x", "role://alice/roles/x", "role://alice/roles/x"),
    ],
)
def test_an_address_is_completed_or_shortened(
    session: Session, text: str, full: str, short: str | None
) -> None:
    parse = session.parse
    assert parse.uri_to_str(parse.str_to_uri(text)) == full
    assert parse.normalize_uri(URL(full)) == URL(full)
    shortened = parse.str_to_uri(text, short=True)
    assert str(shortened) == (short or full.rstrip("/"))
    assert str(parse.str_to_uri(str(shortened))).rstrip("/") == full.rstrip("/")


def test_what_is_left_out_may_be_given(session: Session) -> None:
    uri = session.parse.str_to_uri("disk:a", cluster_name="gpu", org_name="oo", project_name="pp")
    assert uri == URL("disk://gpu/oo/pp/a")
    with pytest.raises(ConfigError, match=r"no cluster 'nope'; there are: default, gpu"):
        session.parse.str_to_uri("disk:a", cluster_name="nope")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "'a' has no scheme; write 'storage:', 'job:' before it"),
        ("/a:b", "'/a:b' has no scheme; write 'storage:', 'job:' before it"),
        ("disk:a", "Invalid scheme 'disk:' in 'disk:a'; only 'storage:', 'job:' are allowed"),
        ("storage:a#", "'storage:a#' has a fragment; within a name, '#' is written '%23'"),
        ("storage:a#b", "'storage:a#b' has a fragment; within a name, '#' is written '%23'"),
        ("storage:a?", "'storage:a?' has a query; within a name, '?' is written '%3F'"),
        ("storage:a?b", "'storage:a?b' has a query; within a name, '?' is written '%3F'"),
        (
            "storage://u@h/a",
            "'storage://u@h/a' has a user, 'u', which such an address never has",
        ),
        (
            "storage://u:secret@h/a",
            "a storage: address has no password; leave out all before '@h'",
        ),
        ("storage://:@h/a", "a storage: address has no password; leave out all before '@h'"),
        (
            "storage://h:80/a",
            "'storage://h:80/a' has a port, '80', which such an address never has",
        ),
        ("storage:~a", "'storage:~a': '~' is no home folder here; write the path"),
        ("storage://~a/b", "'storage://~a/b': '~' is no home folder here; write the path"),
    ],
)
def test_what_is_no_address_is_refused_with_the_remedy(
    session: Session, text: str, message: str
) -> None:
    with pytest.raises(IllegalArgumentError) as refused:
        session.parse.str_to_uri(text, allowed_schemes=("storage", "job"))
    assert str(refused.value) == message
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "allowed", "message"),
    [
        ("a", (), "'a' has no scheme; write 'storage:' before it"),
        ("role:a", (), "'role:a' should be absolute; write 'role://a'"),
        ("disk:a", ("job",), "Invalid scheme 'disk:' in 'disk:a'; only 'job:' is allowed"),
        ("file:///a", ("job",), "Invalid scheme 'file:' in 'file:///a'; only 'job:' is allowed"),
        ("storage://a b/c", (), "'storage://a b/c' is no address: Host 'a b' cannot contain ' '"),
    ],
)
def test_a_scheme_has_to_fit(
    session: Session, text: str, allowed: tuple[str, ...], message: str
) -> None:
    with pytest.raises(IllegalArgumentError) as refused:
        session.parse.str_to_uri(text, allowed_schemes=allowed)
    assert str(refused.value).startswith(message)


HOSTILE = st.text(
    st.one_of(
        st.sampled_from("#%?:@~ +&;='\"\\[]{}|^`<>é中\u202e\n\t"),
        st.characters(exclude_characters="/\0", codec="utf-8"),
    ),
    min_size=1,
    max_size=20,
).filter(lambda name: name not in (".", ".."))


@given(st.lists(HOSTILE, min_size=1, max_size=3))
def test_any_name_makes_the_way_from_text_to_an_address_and_back(names: list[str]) -> None:
    path = "/".join(["", "acme", "vision", *names])
    uri = OFFLINE.str_to_uri(f"storage://default{quote(path)}")
    assert uri.path == path
    assert OFFLINE.str_to_uri(OFFLINE.uri_to_str(uri)) == uri
    assert OFFLINE.normalize_uri(uri) == uri


@given(names=st.lists(HOSTILE, min_size=1, max_size=3))
def test_the_short_form_of_any_name_means_the_same(session: Session, names: list[str]) -> None:
    parse = session.parse
    uri = parse.str_to_uri(HERE + quote("/".join(["", *names])))
    assert parse.str_to_uri(str(parse.normalize_uri(uri, short=True))) == uri


@given(text=st.text(st.characters(codec="utf-8"), max_size=30))
@example("\xa0")
def test_any_text_is_an_address_or_refused(session: Session, text: str) -> None:
    for given_text in (text, f"storage:{text}", f"storage://{text}", f"image:{text}"):
        try:
            uri = session.parse.str_to_uri(given_text)
        except IllegalArgumentError:
            continue
        assert session.parse.str_to_uri(str(uri)) == uri


# Paths of this machine


@given(st.lists(st.binary(min_size=1, max_size=12), min_size=1, max_size=3))
def test_any_path_makes_the_way_to_an_address_and_back(names: list[bytes]) -> None:
    path = Path(os.fsdecode(b"/" + b"/".join(names)))
    uri = OFFLINE.path_to_uri(path)
    assert uri.scheme == "file"
    assert OFFLINE.uri_to_path(uri) == path
    assert OFFLINE.uri_to_path(URL(str(uri))) == path
    assert OFFLINE.str_to_uri(str(uri), allowed_schemes=("file",)) == uri


def test_text_without_a_scheme_is_a_path_where_files_are_allowed(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/alice")

    def uri(text: str) -> str:
        return str(session.parse.str_to_uri(text, allowed_schemes=("file", "storage")))

    assert uri("a b#c?%25:é") == f"file://{tmp_path}/a%20b%23c%3F%2525:%C3%A9"
    assert uri("C:x") == f"file://{tmp_path}/C:x"
    assert uri("../x") == f"file://{tmp_path}/../x"
    assert uri("~/x") == "file:///home/alice/x"
    assert uri("file:a%20b") == f"file://{tmp_path}/a%20b"
    assert uri("storage:a") == f"{HERE}/a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("~nobody-of-that-name/y", "there is no home folder '~nobody-of-that-name'"),
        ("file://host/x", "'file://host/x' names the machine 'host'; write 'file:///PATH'"),
        ("file:~/x", "'file:~/x': '~' is no home folder here; write the path"),
        ("file:///a#b", "'file:///a#b' is no file's address; within a name, '#' is written '%23'"),
        ("file:///a?b", "'file:///a?b' is no file's address; within a name, '?' is written '%3F'"),
    ],
)
def test_what_is_no_path_is_refused(session: Session, text: str, message: str) -> None:
    with pytest.raises(IllegalArgumentError) as refused:
        session.parse.str_to_uri(text, allowed_schemes=("file",))
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("uri", ["storage:a", "file://host/x"])
def test_an_address_elsewhere_is_no_path(session: Session, uri: str) -> None:
    with pytest.raises(IllegalArgumentError, match=uri):
        session.parse.uri_to_path(URL(uri))


# Volumes


def test_volumes_are_sorted_by_kind_and_keep_their_order(session: Session) -> None:
    parsed = session.parse.volumes(
        [
            "storage:b:/b",
            "secret:key:/run/key",
            "disk:d:/d:ro",
            "storage::/mnt:rw",
            "storage://gpu/acme/vision/a%3Ab:/a:ro",
        ]
    )
    volumes = [
        (str(item.storage_uri), item.container_path, item.read_only) for item in parsed.volumes
    ]
    assert volumes == [
        (f"{HERE}/b", "/b", False),
        (HERE, "/mnt", False),
        ("storage://gpu/acme/vision/a:b", "/a", True),
    ]
    [secret], [disk] = parsed.secret_files, parsed.disk_volumes
    assert str(secret.secret_uri) == "secret://default/acme/vision/key"
    assert secret.container_path == "/run/key"
    assert (str(disk.disk_uri), disk.read_only) == ("disk://default/acme/vision/d", True)


def test_a_volume_of_another_cluster_and_org(session: Session) -> None:
    volume = session.parse.volume("storage:a:/a", cluster_name="gpu", org_name="other-org")
    assert str(volume.storage_uri) == "storage://gpu/other-org/vision/a"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("storage:a", "Invalid volume specification 'storage:a'; write 'storage:NAME:/MOUNT/PATH'"),
        ("", "Invalid volume specification ''"),
        ("a:/x", "Invalid volume specification 'a:/x'"),
        ("storage:a:/x:ro:y", "Invalid volume specification 'storage:a:/x:ro:y'"),
        ("storage:a:/x:zz", "'storage:a:/x:zz' ends with the mode 'zz'; a mode is 'ro' or 'rw'"),
        ("image:a:/x", "Invalid scheme 'image:' in 'image:a'; only 'storage:' is allowed"),
        ("storage:a#b:/x", "'storage:a#b' has a fragment"),
        ("storage:a:rel", "container_path = 'rel': Mount path must be absolute: 'rel'"),
        ("disk:a", "Invalid volume specification 'disk:a'; write 'disk:NAME:/MOUNT/PATH'"),
        ("disk:a:/x:zz", "'disk:a:/x:zz' ends with the mode 'zz'"),
        (
            "secret:k",
            "Invalid secret file specification 'secret:k'; write 'secret:KEY:/MOUNT/PATH'",
        ),
        ("secret:k:/x:ro", "Invalid secret file specification 'secret:k:/x:ro'"),
        ("HOME", "the volume 'HOME' is no longer supported"),
        ("ALL", "the volume 'ALL' is no longer supported"),
    ],
)
def test_what_is_no_volume_is_refused(session: Session, text: str, message: str) -> None:
    with pytest.raises(IllegalArgumentError) as refused:
        session.parse.volumes([text])
    assert str(refused.value).startswith(message)


# Variables


def test_variables_of_files_come_first_and_the_last_one_counts(
    session: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FROM_HERE", "here")
    monkeypatch.delenv("NOWHERE", raising=False)
    first, second = tmp_path / "first", tmp_path / "second"
    first.write_bytes(
        b'\xef\xbb\xbf# comment\r\n  A=1\r\n\r\nNOWHERE\nFROM_HERE\nD = 5\n  # x\nE=a=b \nF="q"\n'
    )
    second.write_text("S=secret:key\nT=secret:key\nA=2")
    parsed = session.parse.envs(["T=plain", "U=secret:/other/key"], [str(first), second])
    assert parsed.env == {
        "A": "2",
        "NOWHERE": "",
        "FROM_HERE": "here",
        "D ": " 5",
        "E": "a=b ",
        "F": '"q"',
        "T": "plain",
    }
    assert parsed.secret_env == {
        "S": URL("secret://default/acme/vision/key"),
        "U": URL("secret://default/acme/other/key"),
    }
    gpu = session.parse.envs(["S=secret:key"], cluster_name="gpu")
    assert gpu.secret_env == {"S": URL("secret://gpu/acme/vision/key")}


def test_variables_that_cannot_be_read_are_told(session: Session, tmp_path: Path) -> None:
    with pytest.raises(IllegalArgumentError, match=r"'secret:a#b' has a fragment"):
        session.parse.envs(["A=secret:a#b"])
    with pytest.raises(FileNotFoundError, match=r"no-such-file"):
        session.parse.envs([], [str(tmp_path / "no-such-file")])
    binary = tmp_path / "binary"
    binary.write_bytes(b"A=\xff")
    with pytest.raises(IllegalArgumentError, match=r"binary' is not UTF-8, at byte 2"):
        session.parse.envs([], [str(binary)])


# Images


@pytest.mark.parametrize(
    ("text", "address", "reference"),
    [
        ("image:resnet", "image://default/acme/vision/resnet:latest", None),
        ("image:a/b:1", "image://default/acme/vision/a/b:1", None),
        ("image:5000", "image://default/acme/vision/5000:latest", None),
        ("image:latest:latest", "image://default/acme/vision/latest:latest", None),
        ("image:/other/resnet:v1", "image://default/acme/other/resnet:v1", None),
        ("image:///other/resnet:v1", "image://default/acme/other/resnet:v1", None),
        ("image:/acme/other/resnet", "image://default/acme/acme/other/resnet:latest", None),
        ("image://gpu/other/resnet", "image://gpu/acme/other/resnet:latest", None),
        ("image://gpu/acme/other/resnet", "image://gpu/acme/other/resnet:latest", None),
        ("image://gpu/zzz/other/resnet", "image://gpu/acme/zzz/other/resnet:latest", None),
        ("image://gpu/other-org/p/resnet", "image://gpu/other-org/p/resnet:latest", None),
        (f"{DEFAULT_REGISTRY}/acme/vision/a:1", "image://default/acme/vision/a:1", None),
        (f"{DEFAULT_REGISTRY}/vision/a:1", "image://default/acme/vision/a:1", None),
        (f"{GPU_REGISTRY}/acme/vision/a/b", "image://gpu/acme/vision/a/b:latest", None),
        ("ubuntu", None, "ubuntu:latest"),
        ("library/ubuntu:20.04", None, "library/ubuntu:20.04"),
        ("storage:a", None, "storage:a"),
        ("cr.example.com/proj/img:1", None, "cr.example.com/proj/img:1"),
        ("localhost:5000/img:t", None, "localhost:5000/img:t"),
        ("localhost:5000/img", None, "localhost:5000/img:latest"),
        ("registry.gpu.example.org/acme/x:1", None, "registry.gpu.example.org/acme/x:1"),
        ("my__img/with--dashes.and_more", None, "my__img/with--dashes.and_more:latest"),
        ("a:" + "x" * 128, None, "a:" + "x" * 128),
    ],
)
def test_an_image_is_read(
    session: Session, text: str, address: str | None, reference: str | None
) -> None:
    image = session.parse.remote_image(text)
    if address is not None:
        registry = GPU_REGISTRY if address.startswith("image://gpu/") else DEFAULT_REGISTRY
        reference = f"{registry}/{address.split('/', 3)[3]}"
    assert str(image) == (address or reference)
    assert image.as_docker_url() == reference
    assert session.parse.remote_image(str(image)) == image
    assert session.parse.remote_image(image.as_docker_url()) == image


def test_a_tag_may_be_refused_or_left_out(session: Session) -> None:
    read = session.parse.remote_image
    assert read("image:a", tag_option=TagOption.ALLOW).tag is None
    assert read("image:a:1", tag_option=TagOption.ALLOW).tag == "1"
    assert read("image:a", tag_option=TagOption.DENY).tag is None
    assert read("ubuntu", tag_option=TagOption.DENY).tag == "latest"
    with pytest.raises(IllegalArgumentError, match=r"image:a:1': the tag '1' is not allowed"):
        read("image:a:1", tag_option=TagOption.DENY)


def test_an_image_of_another_cluster(session: Session) -> None:
    image = session.parse.remote_image("image:a", cluster_name="gpu")
    assert str(image) == "image://gpu/acme/vision/a:latest"
    with pytest.raises(ConfigError, match=r"no cluster 'nope'"):
        session.parse.remote_image("image://nope/a/b")


BAD_NAME = "invalid name {!r}; its parts, between slashes, are lower-case letters and digits"
BAD_TAG = "invalid tag {!r}; a tag is letters, digits, underscores, periods and dashes"
EMPTY = "the name or the tag is empty; write NAME or NAME:TAG"
NO_NAME = "no image name; write image:NAME:TAG"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it is empty; write NAME or NAME:TAG"),
        ("-a", "an image cannot begin with a dash"),
        ("image:latest", "it may be a local image named 'image', or one of the platform"),
        ("image:", NO_NAME),
        ("image://", NO_NAME),
        ("image:/x", NO_NAME),
        ("image://gpu/p", NO_NAME),
        ("image://gpu/acme/x", NO_NAME),
        (f"{DEFAULT_REGISTRY}/x", NO_NAME),
        ("a:", EMPTY),
        (":a", EMPTY),
        ("image:a:", EMPTY),
        ("a:b:c", "a colon within the name 'a:b'; write NAME or NAME:TAG"),
        ("image:a:b:c", "a colon within the name 'a:b'; write NAME or NAME:TAG"),
        ("image:x.y:5000/z", "a colon within the name 'x.y:5000/z'; write NAME or NAME:TAG"),
        ("A", BAD_NAME.format("A")),
        ("a.-b", BAD_NAME.format("a.-b")),
        ("a/", BAD_NAME.format("a/")),
        (" ubuntu", BAD_NAME.format(" ubuntu")),
        ("image:é", BAD_NAME.format("é")),
        ("image:a//b", BAD_NAME.format("a//b")),
        ("image:../x", BAD_NAME.format("../x")),
        ("image:/../x", BAD_NAME.format("..")),
        ("image:a%20b", BAD_NAME.format("a b")),
        ("a:" + "x" * 129, "the tag has 129 characters; at most 128 are allowed"),
        ("a:#", BAD_TAG.format("#")),
        ("a:.b", BAD_TAG.format(".b")),
        ("a@sha256:00", "a digest is not allowed here; name the image by a tag"),
        ("image:a#b", "'image:a#b' has a fragment; within a name, '#' is written '%23'"),
        ("image:a?", "'image:a?' has a query; within a name, '?' is written '%3F'"),
        ("image://u@gpu/a/b", "'image://u@gpu/a/b' has a user, 'u'"),
        ("image://ubuntu:v1", "'image://ubuntu:v1' has a port, 'v1'"),
    ],
)
def test_what_is_no_image_is_refused(session: Session, text: str, why: str) -> None:
    with pytest.raises(IllegalArgumentError) as refused:
        session.parse.remote_image(text)
    assert str(refused.value).startswith(f"Invalid remote image {text!r}: {why}")


def test_a_local_image_has_no_scheme(session: Session) -> None:
    read = session.parse.local_image
    assert read("ubuntu") == LocalImage(name="ubuntu", tag="latest")
    assert str(read("localhost:5000/img:t")) == "localhost:5000/img:t"
    with pytest.raises(IllegalArgumentError, match=r"Invalid local image 'image:a': an 'image:'"):
        read("image:a")
    with pytest.raises(IllegalArgumentError, match=r"Invalid local image 'A': invalid name"):
        read("A")


COMPONENT = st.from_regex(r"[a-z0-9]+((\.|_|__|-{1,3})[a-z0-9]+)?", fullmatch=True)


@given(
    names=st.lists(COMPONENT, min_size=1, max_size=3),
    tag=st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
)
def test_any_image_of_the_platform_is_read_back_from_both_its_forms(
    session: Session, names: list[str], tag: str
) -> None:
    image = session.parse.remote_image(f"image:{'/'.join(names)}:{tag}")
    assert session.parse.remote_image(str(image)) == image
    assert session.parse.remote_image(image.as_docker_url()) == image


@given(text=st.text(st.characters(codec="utf-8"), max_size=30))
@example("\xa0")
def test_any_text_is_an_image_or_refused(session: Session, text: str) -> None:
    for given_text in (text, f"image:{text}", f"{DEFAULT_REGISTRY}/{text}"):
        try:
            image = session.parse.remote_image(given_text)
        except IllegalArgumentError:
            continue
        except ConfigError:  # another cluster
            continue
        assert session.parse.remote_image(image.as_docker_url()) == image


def test_an_image_belongs_to_a_platform_or_does_not() -> None:
    with pytest.raises(ValueError, match=r"'a' of a platform takes a registry, a cluster_name"):
        RemoteImage(name="a", cluster_name="default", project_name="vision")
    with pytest.raises(ValueError, match=r"takes neither of the last two"):
        RemoteImage(name="a", registry="localhost:5000", cluster_name="default")
    external = RemoteImage.new_external_image("img", "localhost:5000", tag="t")
    assert external.as_docker_url() == "localhost:5000/img:t"


def test_only_what_is_left_out_is_asked_of_the_platform() -> None:
    with two_clusters() as platform, Session(platform.url, platform.token) as session:
        session.parse.str_to_uri(f"{HERE}/a")
        session.parse.volume(f"{HERE}/a:/a")
        session.parse.remote_image("library/ubuntu")
        session.parse.envs(["A=1"])
        assert platform.asked == 0
        session.parse.volumes(["storage:a:/a", "storage:b:/b"])
        session.parse.remote_image("image:a")
        assert platform.asked == 1


def test_a_file_of_variables_may_be_one_that_a_shell_reads(
    session: Session, tmp_path: Path
) -> None:
    file = tmp_path / "v.env"
    file.write_bytes(b"\xef\xbb\xbfA=1\nexport B=2\n  export\tC = 3\n# export D=4\nexported=5\n")
    assert session.parse.envs([], [str(file)]).env == {
        "A": "1",
        "B": "2",
        "C ": " 3",
        "exported": "5",
    }


@pytest.mark.parametrize("name", ["A=B", "", " ", "nul\0"])
def test_a_name_that_no_variable_can_have_is_refused(session: Session, name: str) -> None:
    with pytest.raises(IllegalArgumentError, match="is no name of a variable"):
        session.jobs.start(image="x", preset_name="cpu-small", env={name: "x"})
    with pytest.raises(IllegalArgumentError, match="is no name of a variable"):
        session.jobs.start(image="x", preset_name="cpu-small", secret_env={name: URL("secret:a")})
