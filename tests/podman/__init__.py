"""docker-compose.yml in real containers, run by ``make containers`` as root on Debian; not a part of ``make test``.

`tests/compose` starts the services as processes, on every machine and in CI. This program builds the Dockerfile, starts
docker-compose.yml with Podman and podman-compose, screens the example archive, kills containers, and checks what only
containers have: capabilities, read-only file systems, users, networks, ports, restarts, volumes. It needs no image
registry: base images are stand-ins, made of Debian's packages (`base_images.py`). What these cannot show is printed at
the end (`LIMITS` in `__main__.py`) and said in docs/cluster.md.

It takes about ten minutes on two cores, and 10 GB below /var/tmp (30 GB where the kernel has no overlay file system).
Everything it makes, also Podman's storage and networks, is in one folder there, which it removes at the end.
"""
