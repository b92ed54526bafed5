"""Registries: pooch's files, DOIs answered by local servers that speak the archives' APIs, several files at once."""

from __future__ import annotations

import hashlib
import json
import os
import pathlib
import threading

import pytest

from tests.files.raw_server import answer, raw_server
from torchkutils import DownloadError, Registry
from torchkutils.files import doi, registry

CSV, ZIP = b"a,b\n1,2\n", b"PK zip"
MD5 = {"a.csv": hashlib.md5(CSV).hexdigest(), "sub/b.zip": hashlib.md5(ZIP).hexdigest()}
SHA = hashlib.sha256(CSV).hexdigest()
HURRY = {"timeout": (2, 2, 5), "retries": 0, "progress": False}


class Site:
    """Answers by path and query; JSON for what is no bytes. Counts what is asked."""

    def __init__(self, **pages) -> None:
        self.pages: dict[str, object] = pages
        self.asked: list[str] = []

    def __call__(self, connection, server) -> None:
        target = server.heads[-1].split()[1]
        self.asked.append(target)
        page = self.pages.get(target)
        if page is None:
            connection.sendall(answer(b"{}", status="404 Not Found"))
        else:
            connection.sendall(answer(page if isinstance(page, bytes) else json.dumps(page).encode()))


@pytest.fixture
def site():
    behaviour = Site()
    with raw_server(behaviour) as server:
        behaviour.base = f"http://{server.place}"
        behaviour.server = server
        yield behaviour


def read(path: str) -> bytes:
    return pathlib.Path(path).read_bytes()


# --- folders


def test_files_are_fetched_by_name_and_checked(site, tmp_path) -> None:
    site.pages = {"/d/a.csv": CSV, "/d/sub/b%20c.zip": ZIP, "/elsewhere": b"x"}
    hashes = {"a.csv": SHA, "sub/b c.zip": f"md5:{MD5['sub/b.zip']}", "free": None}
    files = Registry(f"{site.base}/d/", hashes, urls={"free": f"{site.base}/elsewhere"}, cache_dir=tmp_path, **HURRY)
    assert files.names == ["a.csv", "free", "sub/b c.zip"]
    assert files.url_of("sub/b c.zip") == f"{site.base}/d/sub/b%20c.zip"
    assert read(files.fetch("a.csv")) == CSV
    assert files.fetch("sub/b c.zip") == str(tmp_path / "datasets/sub/b c.zip")
    assert read(files.fetch("free", fname="other")) == b"x"
    assert read(files.fetch("a.csv")) == CSV
    assert len(site.asked) == 3
    site.pages["/d/a.csv"] = b"changed"
    with pytest.raises(ValueError, match="hash is wrong"):
        files.fetch("a.csv", force=True)
    with pytest.raises(ValueError, match=r"name must be one of.*did you mean 'a.csv'"):
        files.fetch("b.csv")


def test_mirrors_and_headers_go_where_they_belong(site, tmp_path) -> None:
    with raw_server(answer(CSV)) as other:
        given = {"cache_dir": tmp_path, "headers": {"X-Token": "t"}, **HURRY}
        files = Registry(f"{site.base}/d", {"a.csv": SHA}, mirrors=[other.url("m/")], **given)
        assert read(files.fetch("a.csv")) == CSV
        elsewhere = Registry(f"{site.base}/d", {"b": None}, urls={"b": other.url("b")}, **given)
        assert read(elsewhere.fetch("b")) == CSV
        assert "X-Token" in site.server.heads[0]
        assert [head.split()[1] for head in other.heads] == ["/m/a.csv", "/b"]
        assert "X-Token" not in other.heads[1]


REGISTRY_FILE = f"""# comment
a.csv {SHA}

"with space.csv" sha256:{SHA} {{0}}/odd
c.csv md5:{MD5["a.csv"]}
"""


def test_a_registry_file_of_pooch_is_read(site, tmp_path) -> None:
    site.pages = {"/odd": CSV, "/d/c.csv": CSV}
    (tmp_path / "registry.txt").write_text(REGISTRY_FILE.format(site.base))
    files = Registry(f"{site.base}/d", tmp_path / "registry.txt", cache_dir=tmp_path, **HURRY)
    assert files.names == ["a.csv", "c.csv", "with space.csv"]
    assert read(files.fetch("with space.csv")) == read(files.fetch("c.csv")) == CSV


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("http://h/x",), None),
        (("file:///x",), "hashes must say"),
        (("nope",), "hashes must say"),
        ((3, {}), "base_url must be"),
        (("http://h/x", {"a": "zz"}), r"hashes\['a'\] must"),
        (("http://h/x", {"": None}), "hashes must map"),
        (("http://h/x", 3), "hashes must be"),
    ],
)
def test_bad_arguments_are_refused(arguments, words) -> None:
    if words is None:
        assert Registry(*arguments)
        return
    with pytest.raises(ValueError, match=words):
        Registry(*arguments)


@pytest.mark.parametrize("line", ["a", "a b c d", f"a {SHA}\na {SHA}", "'a", f"a {SHA} nope"])
def test_a_bad_registry_file_is_refused_by_line(line, tmp_path) -> None:
    (tmp_path / "r").write_text(line)
    with pytest.raises(ValueError, match="hashes must be"):
        Registry("http://h/x", tmp_path / "r")


def test_several_files_come_at_once(site, tmp_path) -> None:
    together = threading.Barrier(3, timeout=10)
    names = [f"{number}.bin" for number in range(3)]

    def behave(connection, server) -> None:
        together.wait()
        connection.sendall(answer(b"x"))

    with raw_server(behave) as server:
        files = Registry(server.url("d"), dict.fromkeys(names), cache_dir=tmp_path, **HURRY)
        assert files.fetch_all(jobs=3) == {name: str(tmp_path / "datasets" / name) for name in names}
        with pytest.raises(ValueError, match="name must be one of"):
            files.fetch_all(["0.bin", "x"])
        with pytest.raises(ValueError, match="jobs must be"):
            files.fetch_all(jobs=0)


def test_one_that_fails_lets_the_others_come(site, tmp_path) -> None:
    site.pages = {"/a": b"a", "/c": b"c"}
    files = Registry(site.base, {"a": None, "b": None, "c": None, "d": None}, cache_dir=tmp_path, **HURRY)
    with pytest.raises(DownloadError, match=r"/b: HTTP 404") as caught:
        files.fetch_all(jobs=1)
    assert caught.value.__notes__ == ["2 of 4 files failed: b, d"]
    assert sorted(os.listdir(tmp_path / "datasets")) == ["a", "c"]


# --- records


def zenodo(site) -> tuple[str, dict[str, object]]:
    files = [
        {"key": name, "checksum": f"md5:{digest}", "links": {"self": f"{site.base}/api/records/7/files/{name}/content"}}
        for name, digest in MD5.items()
    ]
    return "10.5281/zenodo.7", {"page": f"{site.base}/records/7", "/api/records/7": {"id": 7, "files": files}}


def invenio(site) -> tuple[str, dict[str, object]]:
    entries = [{"key": name, "checksum": f"md5:{digest}", "links": {}} for name, digest in MD5.items()]
    return "10.1234/abcde-fgh12", {
        "page": f"{site.base}/records/abcde-fgh12",
        "/api/records/abcde-fgh12": {"files": {"enabled": True}},
        "/api/records/abcde-fgh12/files": {"entries": entries},
    }


def figshare(site) -> tuple[str, dict[str, object]]:
    files = [
        {"name": name, "computed_md5": digest, "download_url": f"{site.base}/ndownloader/files/{number}"}
        for number, (name, digest) in enumerate(MD5.items())
    ]
    return "10.6084/m9.figshare.99.v2", {
        "page": f"{site.base}/articles/dataset/A_title/99/2",
        "/v2/articles/99/versions/2": {"id": 99, "files": files},
    }


def dataverse(site) -> tuple[str, dict[str, object]]:
    files = [
        {"dataFile": {"id": 1, "filename": "a.tab", "originalFileName": "a.csv", "originalFileFormat": "text/csv",
                      "md5": MD5["a.csv"]}},
        {"directoryLabel": "sub", "dataFile": {"id": 2, "filename": "b.zip",
                                               "checksum": {"type": "MD5", "value": MD5["sub/b.zip"]}}},
    ]  # fmt: skip
    return "10.7910/DVN/ABC", {
        "page": f"{site.base}/citation?persistentId=doi:10.7910/DVN/ABC",
        "/api/datasets/:persistentId/?persistentId=doi:10.7910/DVN/ABC": {"data": {"latestVersion": {"files": files}}},
    }


@pytest.fixture(params=[zenodo, invenio, figshare, dataverse], ids=lambda speaks: speaks.__name__)
def record(request, site, monkeypatch):
    """A DOI whose resolver and archive are the local site."""
    monkeypatch.setattr(doi, "DOI_RESOLVER", f"{site.base}/doi")
    monkeypatch.setattr(doi, "FIGSHARE_API", f"{site.base}/v2")
    name, pages = request.param(site)
    values = [{"type": "HS_ADMIN", "data": {"format": "admin"}}, {"type": "URL", "data": {"value": pages.pop("page")}}]
    site.pages = {**pages, f"/doi/api/handles/{name}?type=URL": {"responseCode": 1, "values": values}}
    files = Registry(f"doi:{name}", **HURRY)
    for path, body in (("a.csv", CSV), ("sub/b.zip", ZIP)):
        site.pages[files.url_of(path).removeprefix(site.base)] = body
    site.asked.clear()
    return name


def test_a_doi_is_resolved_to_files_with_their_hashes(record, site, tmp_path) -> None:
    files = Registry(f"https://doi.org/{record}", cache_dir=tmp_path, **HURRY)
    assert files.names == ["a.csv", "sub/b.zip"]
    asked = len(site.asked)
    assert {name: read(path) for name, path in files.fetch_all().items()} == {"a.csv": CSV, "sub/b.zip": ZIP}
    assert len(site.asked) == asked + 2

    again = Registry(f"doi:{record}/", cache_dir=tmp_path, offline=True, **HURRY)
    assert read(again.fetch("a.csv")) == CSV, "the list is kept beside the cache"
    assert len(site.asked) == asked + 2

    target = files.url_of("a.csv").removeprefix(site.base)
    site.pages[target] = b"planted"
    with pytest.raises(ValueError, match="hash is wrong"):
        files.fetch("a.csv", force=True)


def test_a_list_that_has_changed_is_asked_for_anew(site, tmp_path) -> None:
    _, pages = zenodo(site)
    listing = pages["/api/records/7"]
    site.pages = {**pages, "/api/records/7/files/a.csv/content": CSV}
    files = Registry(f"{site.base}/records/7", cache_dir=tmp_path, **HURRY)
    assert read(files.fetch("a.csv")) == CSV
    listing["files"][0]["checksum"] = f"md5:{hashlib.md5(b'new').hexdigest()}"
    site.pages["/api/records/7/files/a.csv/content"] = b"new"
    assert read(Registry(f"{site.base}/records/7", cache_dir=tmp_path, **HURRY).fetch("a.csv", force=True)) == b"new"
    listing["files"].append({"key": "c", "links": {"self": f"{site.base}/c"}})
    site.pages["/c"] = b"c"
    assert read(files.fetch("c")) == b"c"
    files.refresh()
    assert files.names == ["a.csv", "c", "sub/b.zip"]


def test_a_hash_of_the_caller_s_counts_before_the_archive_s(site, tmp_path) -> None:
    _, site.pages = zenodo(site)
    site.pages["/api/records/7/files/a.csv/content"] = b"planted"
    site.pages["/api/records/7"]["files"][0]["checksum"] = f"md5:{hashlib.md5(b'planted').hexdigest()}"
    site.pages["/doi/api/handles/10.5281/zenodo.7?type=URL"] = {
        "values": [{"data": {"value": f"{site.base}/records/7"}}]
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(doi, "DOI_RESOLVER", f"{site.base}/doi")
        files = Registry("doi:10.5281/zenodo.7", {"a.csv": SHA}, cache_dir=tmp_path, **HURRY)
        with pytest.raises(ValueError, match="hash is wrong"):
            files.fetch("a.csv")


BAD_LISTS = {
    "no json": (b"<html>", DownloadError, "no JSON"),
    "deep json": (b"[" * 100_000, DownloadError, "no JSON"),
    "another list": ([1], ValueError, "none of its API"),
    "no files": ({"files": []}, ValueError, "none of its API|no files|HTTP 404"),
    "a file that is none": ({"files": ["x"]}, ValueError, "none of its API"),
    "nothing usable": ({"files": [{"key": "../x", "links": {"self": "http://h/x"}}]}, ValueError, "no files"),
}


@pytest.mark.parametrize("name", BAD_LISTS)
def test_an_archive_that_answers_nonsense_is_said(name, site, tmp_path) -> None:
    page, kind, words = BAD_LISTS[name]
    site.pages = {"/api/records/7": page}
    with pytest.raises((kind, DownloadError), match=words):
        Registry(f"{site.base}/records/7", cache_dir=tmp_path, **HURRY).names


def test_names_and_addresses_of_an_archive_are_not_believed(site, tmp_path) -> None:
    bad = ["../x", "/etc/x", "a/../x", "a\\x", "a\nb", "", "x\0", ".x.torchkutils-lock", "n" * 300]
    entries = [{"key": name, "links": {"self": f"{site.base}/x"}} for name in bad]
    entries += [{"key": "f", "links": {"self": "file:///etc/hostname"}}, {"key": 3, "links": {"self": "http://h/"}}]
    entries += [{"key": "good", "checksum": "md5:nonsense", "links": {"self": f"{site.base}/x"}}]
    site.pages = {"/api/records/7": {"files": entries}, "/x": b"x"}
    files = Registry(f"{site.base}/records/7", cache_dir=tmp_path, **HURRY)
    assert files.names == ["good"]
    assert read(files.fetch("good")) == b"x"


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ({"values": []}, "leads nowhere"),
        ({"values": [{"data": {"value": "ftp://h/x"}}]}, "leads nowhere"),
        ([], "leads nowhere"),
    ],
)
def test_a_doi_that_leads_nowhere_is_said(answers, words, site, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(doi, "DOI_RESOLVER", f"{site.base}/doi")
    site.pages = {"/doi/api/handles/10.5281/zenodo.7?type=URL": answers}
    with pytest.raises(ValueError, match=words):
        Registry("doi:10.5281/zenodo.7", cache_dir=tmp_path, **HURRY).names


def test_offline_without_a_kept_list_is_an_error(tmp_path) -> None:
    files = Registry("doi:10.5281/zenodo.7", cache_dir=tmp_path, offline=True)
    with pytest.raises(DownloadError, match="was never asked"):
        files.fetch("a")


def test_headers_are_not_sent_to_the_resolver(site, tmp_path, monkeypatch) -> None:
    _, site.pages = zenodo(site)
    with raw_server(
        answer(json.dumps({"values": [{"data": {"value": f"{site.base}/records/7"}}]}).encode())
    ) as resolver:
        monkeypatch.setattr(doi, "DOI_RESOLVER", f"http://{resolver.place}")
        files = Registry("doi:10.5281/zenodo.7", headers={"X-Token": "t"}, cache_dir=tmp_path, **HURRY)
        assert files.names == ["a.csv", "sub/b.zip"]
        assert "X-Token" not in resolver.heads[0]
    assert "X-Token" in site.server.heads[0]


@pytest.mark.parametrize("place", ["records/7", "d"])
def test_a_login_goes_as_a_header_and_is_kept_nowhere(place, site, tmp_path) -> None:
    _, site.pages = zenodo(site)
    site.pages |= {"/api/records/7/files/a.csv/content": CSV, "/d/a.csv": CSV}
    url = f"{site.base}/{place}".replace("//", "//me:S3CRET@")
    files = Registry(url, None if place != "d" else {"a.csv": SHA}, cache_dir=tmp_path, **HURRY)
    assert read(files.fetch("a.csv")) == CSV
    assert all("Authorization: Basic bWU6UzNDUkVU\r\n" in head for head in site.server.heads)
    assert "S3CRET" not in files.url_of("a.csv") + repr(vars(files).get("_files"))
    assert not [path for path in tmp_path.rglob("*") if path.is_file() and b"S3CRET" in path.read_bytes()]


@pytest.mark.parametrize("size", [0, 1])
def test_an_endless_list_is_cut_off(size, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(registry, "MAX_LISTING_BYTES", 1000)
    words = "more than 1000 bytes" if size else "no files|API"
    words = "more than 1000 bytes" if size else "no files|API"
    with raw_server(answer(b'{"files": [' + b" " * 2000 * size + b"]}")) as server:
        files = Registry(server.url("records/7"), cache_dir=tmp_path, **HURRY)
        with pytest.raises((DownloadError, ValueError), match=words):
            files.refresh()


def test_options_that_concern_one_file_are_no_options_of_a_registry(tmp_path) -> None:
    with pytest.raises(
        TypeError, match=r"options must be of cache_dir, .*, got 'extract'; get_file's others go to fetch"
    ):
        Registry(tmp_path.as_uri(), {"a": None}, extract=True)
