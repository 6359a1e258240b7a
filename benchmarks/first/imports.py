"""The floor of a start: import what ipclusterz stands on into one interpreter; no more."""

import msgspec
import traitlets
import zmq

if __name__ == "__main__":
    print("first", msgspec.__version__, traitlets.__version__, zmq.__version__, flush=True)
    print("all there", flush=True)
