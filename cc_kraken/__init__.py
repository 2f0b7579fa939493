"""cc_kraken: cloud-init module that brings up the EBS volumes of a node.

Importing this package imports nothing else: any exception here would cost
the whole boot stage, logins included.  The work starts in :func:`handle`.
"""

frequency = "always"
distros = ["all"]
meta = {"id": "cc_kraken", "distros": ["all"], "frequency": "always"}


def handle(*args, **kwargs):  # type: ignore[no-untyped-def]
    """Run the module for cloud-init (any calling convention, 22.2 to 26.2).

    Two parameters on purpose: cloud-init counts the parameters of the
    signature, and five of them make every boot "degraded" since 23.4.
    """
    try:
        from cc_kraken.boot.configured import is_configured

        names = ("name", "cfg", "cloud")
        given = {**dict(zip(names, args)), **kwargs}
        name, cfg, cloud = map(given.get, names)
        if is_configured(cfg, cloud):
            from cc_kraken.boot.stage import run_stage

            run_stage(name, cfg, cloud)
    except Exception:
        raise
    except BaseException as error:  # cloud-init would let it through
        raise RuntimeError(f"cc_kraken failed: {error!r}") from error
