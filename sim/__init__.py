"""The virtual body: workers, links, arrivals and a router as SimPy processes, counting picoseconds.

`run.simulate` takes a `RunConfig` to a whole run directory. `body` puts the processes together, `worker` and `pipeline`
are replicas, `recorder` and `meter` work out energy and latencies from strides, `capacity` measures what a replica
carries. All decisions are those of `policies`, all physics is that of `hwprofiles`.
"""
