// Shows one splat file at a time in an element, to turn, move and zoom.
import { Color, PerspectiveCamera, Scene, WebGLRenderer } from 'three'
import { OrbitControls } from 'three/addons/controls/OrbitControls.js'
import { SparkRenderer, SplatMesh } from '@sparkjsdev/spark'

const SETTLING_FRAMES = 20 // drawn after the last change: sorting comes back a little later
const RELEASE_MS = 250

export class SplatViewer {
  /** Draws into `place`, a positioned element. Throws where there is no WebGL 2; calls `onLost` if the graphics card takes it away. */
  constructor(place, onLost) {
    this.place = place
    this.frames = 0
    this.renderer = new WebGLRenderer({ antialias: false })
    this.renderer.setPixelRatio(window.devicePixelRatio)
    this.canvas = this.renderer.domElement
    Object.assign(this.canvas.style, { position: 'absolute', inset: '0', width: '100%', height: '100%', display: 'block' })
    this.canvas.addEventListener('webglcontextlost', onLost)
    place.append(this.canvas)

    this.scene = new Scene()
    this.setBackground('#ffffff')
    this.camera = new PerspectiveCamera(30, 1, 0.01, 1000)
    // Blurred and sorted as the reference rasteriser does, so that the page shows what the nodes render.
    const spark = { renderer: this.renderer, preBlurAmount: 0.3, blurAmount: 0, sortRadial: false, enableLod: false }
    this.spark = new SparkRenderer({ ...spark, onDirty: () => this.redraw() })
    this.scene.add(this.spark)
    this.controls = new OrbitControls(this.camera, this.canvas)
    this.controls.addEventListener('change', () => this.redraw())
    this.sizes = new ResizeObserver(() => this.resize())
    this.sizes.observe(place)
    this.resize()
  }

  /** Shows the file at `url`: splats in y-down space. `view` has position, target (x, y, z each, y up) and fov in degrees. */
  async show(url, view) {
    const answer = await fetch(url)
    if (!answer.ok) throw new Error(`${answer.status} ${answer.statusText}`)
    const fileBytes = new Uint8Array(await answer.arrayBuffer())
    const mesh = new SplatMesh({ fileBytes, fileName: new URL(url, location.href).searchParams.get('filename') ?? url })
    await mesh.initialized
    if (this.closed) return mesh.dispose()
    mesh.quaternion.set(1, 0, 0, 0) // half a turn about x: y-down to y-up
    this.drop()
    this.mesh = mesh
    this.scene.add(mesh)
    this.view = view
    this.reset()
  }

  /** The camera back to where `show` put it. */
  reset() {
    const { position, target, fov } = this.view
    this.camera.position.set(...position)
    this.controls.target.set(...target)
    const distance = this.camera.position.distanceTo(this.controls.target)
    Object.assign(this.camera, { fov, near: distance / 200, far: distance * 50 })
    this.camera.updateProjectionMatrix()
    this.controls.update()
    this.redraw()
  }

  setBackground(color) {
    this.scene.background = new Color(color)
    this.redraw()
  }

  resize() {
    const { clientWidth: width, clientHeight: height } = this.place
    if (!width || !height) return
    this.renderer.setSize(width, height, false)
    this.camera.aspect = width / height
    this.camera.updateProjectionMatrix()
    this.redraw()
  }

  redraw() {
    const asleep = !(this.frames > 0)
    this.frames = SETTLING_FRAMES
    if (asleep) requestAnimationFrame(() => this.frame())
  }

  frame() {
    if (this.closed) return
    this.controls.update()
    this.renderer.render(this.scene, this.camera)
    this.frames -= 1
    if (this.frames > 0) requestAnimationFrame(() => this.frame())
  }

  drop() {
    if (!this.mesh) return
    this.scene.remove(this.mesh)
    this.mesh.dispose()
    this.mesh = null
  }

  close() {
    this.closed = true
    this.sizes.disconnect()
    this.controls.dispose()
    this.canvas.remove()
    setTimeout(() => this.release(), RELEASE_MS)
  }

  /** Hands back what the graphics card holds, once no sort is under way any more: it would complain. */
  release() {
    if (this.spark.sorting) return setTimeout(() => this.release(), RELEASE_MS)
    this.drop()
    this.spark.dispose()
    this.renderer.dispose()
    this.renderer.forceContextLoss()
  }
}
