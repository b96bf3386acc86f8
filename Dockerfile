# The image of oar-tiles: one program, the map client in it, no shell.
#   docker build -t oar-tiles . && docker run --rm -p 8080:8080 -v "$PWD:/tiles" oar-tiles serve /tiles/facilities.mbtiles
FROM rust:1-bookworm AS build
RUN apt-get update \
 && apt-get install -y --no-install-recommends nodejs npm \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
RUN scripts/assets \
 && cargo build --release --locked --features embedded-map \
 && strip target/release/oar-tiles

FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /source/target/release/oar-tiles /usr/bin/oar-tiles
ENV OAR_TILES_LISTEN=0.0.0.0:8080 \
    OAR_TILES_ADMIN=0.0.0.0:9180
EXPOSE 8080 9180
WORKDIR /tiles
ENTRYPOINT ["/usr/bin/oar-tiles"]
CMD ["serve"]
