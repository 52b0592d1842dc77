"""What ComfyUI lends to the nodes, and how Lathe's data crosses its sockets. The only folder that knows ComfyUI's versions."""
