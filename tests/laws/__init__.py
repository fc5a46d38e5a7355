"""Laws: what must hold for every mesh, checked by hypothesis on meshes nobody thought of."""
