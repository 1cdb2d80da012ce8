"""Builds the images of images/Dockerfile where there is no container engine: root on Debian, and nothing else.

`dockerfile` reads the text, `build` walks its stages, `layers` makes and keeps each step's layer, `machine` says what a
step borrows from this machine, `archive` writes what a container runtime imports. `make images` and e2e call it.
"""
